"""Trains the demo checkpoint from scratch. Run it again to resume where it stopped.

python -m recipes.demo --budget-minutes 180
"""

import argparse
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from .autoencoder import HELD_OUT, Autoencoder, channels_last, held_out_psnr, pixels, train_autoencoder, train_decoder
from .diffusion import Generator, Rates, Stage, train_generator
from .export import export, restore_autoencoder, restore_text_encoder, restore_transformer
from .images import save_grid
from .latents import encode_scenes
from .reading import train_reading
from .render import render
from .sampling import PROMPTS, decode, sample
from .settings import NATIVE_SIZE
from .standardize import standardized
from .text import TextEncoder, load_tokenizer
from .training_ops import use_training_ops
from .world import sample_scene

# Shares of the budget. The autoencoder and reading are learned fast; following prompts takes time.
AUTOENCODER, DECODER, READING = 0.18, 0.07, 0.07
# Sizes trained together (height, width, batch, frequency), until this share of the remaining budget.
Mix = tuple[tuple[int, int, int, float], ...]
CASCADE: tuple[tuple[Mix, float], ...] = (
    (((128, 128, 256, 1.0),), 0.3),
    (((256, 256, 64, 0.9), (128, 128, 256, 0.1)), 0.85),
    (((256, 256, 64, 0.6), (128, 128, 256, 0.1), (256, 384, 40, 0.1), (384, 256, 40, 0.1), (512, 512, 16, 0.1)), 1.0),
)
SCENES = {(128, 128): 20000, (256, 256): 12000, (256, 384): 1500, (384, 256): 1500, (512, 512): 1000}
FRESH, ONWARD = Rates(2e-3, text=4e-4), Rates(1e-3, text=4e-4)  # from random weights, from a checkpoint
ENOUGH_MINUTES = 30.0  # shorter trainings see fewer scenes: encoding all of them takes two cores six minutes


@dataclass(frozen=True)
class Scale:
    """Work that does not depend on the budget.

    Args:
        standardize, held_out: scenes that the latents' statistics and the PSNR are measured on.
        prompts, sampling_steps: of the sample grids.
        cascade: sizes of a training from scratch.
    """

    standardize: int = 96
    held_out: int = HELD_OUT
    prompts: int = len(PROMPTS)
    sampling_steps: int = 20
    cascade: tuple[tuple[Mix, float], ...] = CASCADE


TINY_MIX: Mix = ((128, 128, 8, 1.0),)
TINY = Scale(standardize=2, held_out=2, prompts=2, sampling_steps=1, cascade=((TINY_MIX, 1.0),))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--budget-minutes", type=float, default=180.0, help="training time in total (default: %(default)s)")
    work_help = "folder for checkpoints, latents and sample grids (default: %(default)s)"
    add("--work", type=Path, default=Path("demo-training"), help=work_help)
    out_help = "folder of the exported checkpoint (default: %(default)s)"
    add("--out", type=Path, default=Path("engine/demo"), help=out_help)
    add("--start", type=Path, help="exported checkpoint whose weights every stage starts from, at lower rates")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")
    add("--tiny", action="store_true", help="a step of each stage, seconds on a CPU: shows that the command works")
    if parser.parse_known_args(argv)[0].tiny:  # neither overwrites the real checkpoint nor is resumed from
        parser.set_defaults(work=Path("demo-tiny"), out=Path("demo-tiny/checkpoint"))
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    if device.type == "cpu":
        use_training_ops()
    minutes, scale = (1e-3, TINY) if args.tiny else (args.budget_minutes, Scale())
    train(args.work, args.out, minutes, device, scale, args.start)


def train(work: Path, out: Path, minutes: float, device: torch.device, scale: Scale, start: Path | None) -> None:
    """The paper's stages at small scale: autoencoder, text, then diffusion at 128 px, at 256 px and at all sizes."""
    autoencoder = frozen_encoder(work, minutes * AUTOENCODER, device, scale, start)
    torch.manual_seed(1)
    reader = TextEncoder(load_tokenizer(work))
    if start:
        restore_text_encoder(reader, start)
    reader = train_reading(reader.to(device), work, minutes * READING)
    generator = Generator(reader)
    if start:
        restore_transformer(generator, start)
    rest = minutes * (1 - AUTOENCODER - DECODER - READING)
    cascade = [(mix, rest * until) for mix, until in scale.cascade]
    rates = ONWARD if start else FRESH
    average = diffuse(autoencoder, generator.to(device), work, cascade, rates, scale)
    decoder = train_decoder(autoencoder, work, minutes * DECODER, scale.held_out)
    save_samples(decoder, average, work, scale)
    export(decoder, average, out)
    psnr = held_out_psnr(decoder, scale.held_out)
    print(f"held-out PSNR {psnr:.2f} dB over {scale.held_out} scenes; wrote {out}; `sana eval` scores it", flush=True)


def diffuse(
    autoencoder: Autoencoder,
    generator: Generator,
    work: Path,
    cascade: list[tuple[Mix, float]],
    rates: Rates,
    scale: Scale,
) -> Generator:
    """Trains `generator` through the cascade of sizes, each until its minute. Returns the averaged weights."""
    share = min(1.0, cascade[-1][1] / ENOUGH_MINUTES)
    sizes = dict.fromkeys((height, width) for mix, _ in cascade for height, width, _, _ in mix)
    latents = {size: encode_scenes(autoencoder, *size, math.ceil(SCENES[size] * share), work) for size in sizes}
    stages = [
        Stage(tuple((latents[height, width], batch, weight) for height, width, batch, weight in mix), until)
        for mix, until in cascade
    ]
    average = copy.deepcopy(generator)
    train_generator(generator, average, work, stages, rates, lambda: save_samples(autoencoder, average, work, scale))
    return average


def save_samples(autoencoder: Autoencoder, generator: Generator, work: Path, scale: Scale) -> None:
    latents = sample(generator, PROMPTS[: scale.prompts], steps=scale.sampling_steps)
    save_grid(work / "samples.png", decode(autoencoder, latents), columns=8)


def frozen_encoder(work: Path, minutes: float, device: torch.device, scale: Scale, start: Path | None) -> Autoencoder:
    """The trained autoencoder with standardized latents, kept in work/standardized.pt: cached latents depend on it."""
    path = work / "standardized.pt"
    if not path.exists():
        if start:
            before = Autoencoder()
            restore_autoencoder(before, start)
            trained = train_autoencoder(work, minutes, device, scale.held_out, before.to(device))
        else:
            rng = Random(5)
            scenes = [render(sample_scene(rng), NATIVE_SIZE, NATIVE_SIZE) for _ in range(scale.standardize)]
            trained = train_autoencoder(work, minutes, device, scale.held_out)
            trained = standardized(trained, pixels(scenes).to(device))
        torch.save(trained.state_dict(), path)
    model = Autoencoder()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return channels_last(model.to(device))


if __name__ == "__main__":
    main()
