"""Everything from nothing: `python -m recipes.demo --budget-minutes 120`; run it again to resume where it stopped."""

import argparse
import copy
import math
import shutil
from pathlib import Path
from random import Random

import torch

from .autoencoder import Autoencoder, channels_last, held_out_psnr, pixels, train_autoencoder, train_decoder
from .diffusion import Generator, Rates, Stage, train_generator
from .export import export, restore
from .latents import encode_scenes
from .pictures import save_grid
from .reading import train_reading
from .sampling import PROMPTS, decode, sample
from .settings import NATIVE_SIZE
from .standardize import standardized
from .text import TextEncoder, load_tokenizer
from .training_ops import use_training_ops
from .world import render, sample_scene

# Shares of the budget. The autoencoder and reading are learnt fast; following prompts is what takes time.
AUTOENCODER, DECODER, READING = 0.18, 0.07, 0.07
# Sizes trained side by side (height, width, batch, how often), until this share of what is left.
Mix = tuple[tuple[int, int, int, float], ...]
CASCADE: tuple[tuple[Mix, float], ...] = (
    (((128, 128, 256, 1.0),), 0.3),
    (((256, 256, 64, 0.9), (128, 128, 256, 0.1)), 0.85),
    (((256, 256, 64, 0.6), (128, 128, 256, 0.1), (256, 384, 40, 0.1), (384, 256, 40, 0.1), (512, 512, 16, 0.1)), 1.0),
)
ONWARD: Mix = (
    (256, 256, 64, 0.75),
    (128, 128, 256, 0.1),
    (256, 384, 40, 0.05),
    (384, 256, 40, 0.05),
    (512, 512, 16, 0.05),
)
SCENES = {(128, 128): 20000, (256, 256): 12000, (256, 384): 1500, (384, 256): 1500, (512, 512): 1000}
ENOUGH_MINUTES = 30.0  # shorter trainings see fewer scenes: encoding them all takes two cores six minutes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description=__doc__)
    parser.add_argument("--budget-minutes", type=float, default=180.0, help="training time in all, on this machine")
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="checkpoints, latents, sample grids")
    parser.add_argument("--out", type=Path, default=Path("engine/demo"), help="the checkpoint in diffusers layout")
    parser.add_argument("--start", type=Path, help="train on from such a checkpoint: diffusion alone, at half the rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        use_training_ops()
    if arguments.start:
        train_on(arguments.start, arguments.work, arguments.out, arguments.budget_minutes, device)
    else:
        train(arguments.work, arguments.out, arguments.budget_minutes, device)


def train(work: Path, out: Path, minutes: float, device: torch.device) -> None:
    """The stages of the paper in the small: autoencoder, text, then diffusion at 128 px, at 256 px and at all sizes."""
    autoencoder = frozen_encoder(work, minutes * AUTOENCODER, device)
    torch.manual_seed(1)
    reader = train_reading(TextEncoder(load_tokenizer(work)).to(device), work, minutes * READING)
    rest = minutes * (1 - AUTOENCODER - DECODER - READING)
    cascade = [(mix, rest * until) for mix, until in CASCADE]
    average = diffuse(autoencoder, Generator(reader).to(device), work, cascade, Rates(2e-3, text=4e-4))
    finish(train_decoder(autoencoder, work, minutes * DECODER), average, work, out)


def train_on(start: Path, work: Path, out: Path, minutes: float, device: torch.device) -> None:
    """All sizes at once from the weights of `start`, with its tokenizer; they have seen every stage before."""
    shutil.copy(start / "tokenizer" / "tokenizer.json", work)
    torch.manual_seed(1)
    autoencoder, generator = Autoencoder().to(device), Generator(TextEncoder(load_tokenizer(work))).to(device)
    restore(autoencoder, generator, start)
    average = diffuse(channels_last(autoencoder), generator, work, [(ONWARD, minutes)], Rates(1e-3, text=6e-4))
    finish(autoencoder, average, work, out)


def diffuse(
    autoencoder: Autoencoder, generator: Generator, work: Path, cascade: list[tuple[Mix, float]], rates: Rates
) -> Generator:
    """Train `generator` through the cascade of sizes, each until its minute; returns the averaged weights."""
    share = min(1.0, cascade[-1][1] / ENOUGH_MINUTES)
    latents = {
        size: encode_scenes(autoencoder, *size, math.ceil(count * share), work) for size, count in SCENES.items()
    }
    stages = [
        Stage(tuple((latents[height, width], batch, share) for height, width, batch, share in mix), until)
        for mix, until in cascade
    ]
    average = copy.deepcopy(generator)

    def show() -> None:
        save_grid(work / "samples.png", decode(autoencoder, sample(average, PROMPTS)), columns=8)

    train_generator(generator, average, work, stages, rates, show)
    return average


def frozen_encoder(work: Path, minutes: float, device: torch.device) -> Autoencoder:
    """The trained autoencoder with standardised latents, kept in work/standardized.pt: cached latents depend on it."""
    path = work / "standardized.pt"
    if not path.exists():
        trained = train_autoencoder(work, minutes, device)
        rng = Random(5)
        images = pixels([render(sample_scene(rng), NATIVE_SIZE, NATIVE_SIZE) for _ in range(96)]).to(device)
        torch.save(standardized(trained, images).state_dict(), path)
    model = Autoencoder()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return channels_last(model.to(device))


def finish(autoencoder: Autoencoder, generator: Generator, work: Path, out: Path) -> None:
    save_grid(work / "samples.png", decode(autoencoder, sample(generator, PROMPTS)), columns=8)
    export(autoencoder, generator, out)
    print(f"held-out PSNR {held_out_psnr(autoencoder):.2f} dB; wrote {out}; `sana eval` marks it", flush=True)


if __name__ == "__main__":
    main()
