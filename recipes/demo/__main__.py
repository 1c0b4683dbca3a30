"""Everything from nothing: `python -m recipes.demo --budget-minutes 120`; run it again to resume where it stopped."""

import argparse
from pathlib import Path
from random import Random

import torch

from .autoencoder import Autoencoder, channels_last, held_out_psnr, pixels, train_autoencoder, train_decoder
from .diffusion import Generator, Stage, train_generator
from .evaluate import scores, tasks
from .export import export
from .latents import encode_scenes, with_pairs_twice
from .pictures import save_grid
from .sampling import PROMPTS, decode, sample
from .settings import NATIVE_SIZE
from .standardize import standardized
from .training_ops import use_training_ops
from .world import render, sample_scene

# Shares of the budget. The autoencoder learns fast; following prompts is what takes time.
AUTOENCODER, DECODER = 0.2, 0.1
CASCADE = ((128, 16000, 128, 0.35), (NATIVE_SIZE, 12000, 64, 1.0))  # px, scenes, batch, until this share of the rest


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description=__doc__)
    parser.add_argument("--budget-minutes", type=float, default=120.0, help="training time in all, on this machine")
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="checkpoints, latents, sample grids")
    parser.add_argument("--out", type=Path, default=Path("engine/demo"), help="the checkpoint in diffusers layout")
    parser.add_argument("--threads", type=int, default=0, help="0: what torch chooses")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    use_training_ops()
    train(arguments.work, arguments.out, arguments.budget_minutes)


def train(work: Path, out: Path, minutes: float) -> None:
    """The three stages of the paper in the small: autoencoder, then diffusion at 128 px, then at 256 px."""
    autoencoder = frozen_encoder(work, minutes * AUTOENCODER)
    rest = minutes * (1 - AUTOENCODER - DECODER)
    stages = []
    for size, scenes, batch, until in CASCADE:
        data = encode_scenes(autoencoder, size, scenes, work / f"latents{size}.pt")
        stages.append(Stage(with_pairs_twice(data) if size == NATIVE_SIZE else data, batch, rest * until))
    generator = train_generator(work, stages)
    autoencoder = train_decoder(autoencoder, work, minutes * DECODER)
    finish(autoencoder, generator, work, out)


def frozen_encoder(work: Path, minutes: float) -> Autoencoder:
    """The trained autoencoder with standardised latents, kept in work/standardized.pt: cached latents depend on it."""
    path = work / "standardized.pt"
    if not path.exists():
        trained = train_autoencoder(work, minutes)
        rng = Random(5)
        images = pixels([render(sample_scene(rng), NATIVE_SIZE, NATIVE_SIZE) for _ in range(96)])
        torch.save(standardized(trained, images).state_dict(), path)
    model = Autoencoder()
    model.load_state_dict(torch.load(path, weights_only=True))
    return channels_last(model)


def finish(autoencoder: Autoencoder, generator: Generator, work: Path, out: Path) -> None:
    save_grid(work / "samples.png", decode(autoencoder, sample(generator, PROMPTS)), columns=8)
    export(autoencoder, generator, out)
    print(f"held-out PSNR {held_out_psnr(autoencoder):.2f} dB; wrote {out}", flush=True)
    for kind, (passed, asked) in score(autoencoder, generator, work / "score.png").items():
        print(f"{kind:20} {passed} of {asked}", flush=True)


def score(autoencoder: Autoencoder, generator: Generator, contact_sheet: Path) -> dict[str, tuple[int, int]]:
    """The detector's verdict on 12 prompts of each kind."""
    asked = list(tasks(12))
    prompts = tuple(dict.fromkeys(task.prompt for task in asked))
    images = torch.cat(
        [decode(autoencoder, sample(generator, prompts[i : i + 16], seed=i)) for i in range(0, len(prompts), 16)]
    )
    save_grid(contact_sheet, images, columns=8)
    pictures = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    seen = dict(zip(prompts, pictures, strict=True))
    return scores([(task, seen[task.prompt]) for task in asked])


if __name__ == "__main__":
    main()
