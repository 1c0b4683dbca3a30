"""Stage one: the autoencoder F32C32P1, trained on windows of 128 px so that a CPU sees enough scenes."""

import copy
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engine.models.configs import DCAEConfig
from engine.models.dc_ae import DCAEDecoder, DCAEEncoder

from .images import save_grid
from .optimizer import Muon, schedule
from .precision import autocast
from .render import render
from .run import Run, average_into
from .settings import NATIVE_SIZE, VAE
from .world import sample_scene

WINDOW = 128
HELD_OUT = 48
ANCHOR = 0.05  # weight of the latents' squared distance to those of the encoder that training started from


class Autoencoder(nn.Module):
    """Both halves under diffusers' key prefixes.

    Args:
        shortcuts: as trained, with DC-AE's parameter-free shortcuts around the latents; `standardized` folds them away.
    """

    def __init__(self, shortcuts: bool = False) -> None:
        super().__init__()
        config = DCAEConfig.from_dict(VAE | {"encoder_out_shortcut": shortcuts, "decoder_in_shortcut": shortcuts})
        self.encoder = DCAEEncoder(config)
        self.decoder = DCAEDecoder(config)

    @property
    def device(self) -> torch.device:
        return self.decoder.conv_in.weight.device


def channels_last(model: Autoencoder) -> Autoencoder:
    """The model in the memory format that is fastest for convolutions on a CPU."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pixels(images: list[np.ndarray]) -> torch.Tensor:
    """Converts uint8 images [h, w, 3] to [N, 3, h, w] in [-1, 1], channels last."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def training_batch(rng: Random, size: int) -> torch.Tensor:
    """Half whole scenes at 128 px, half windows of scenes at 256 px: both resolutions of the cascade."""
    images = []
    for i in range(size):
        scene = sample_scene(rng)
        if i % 2:
            images.append(render(scene, WINDOW, WINDOW))
        else:
            top, left = (rng.randrange(0, NATIVE_SIZE - WINDOW + 1) for _ in range(2))
            images.append(render(scene, NATIVE_SIZE, NATIVE_SIZE, (top, left, WINDOW, WINDOW)))
    return pixels(images)


def gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 for sharpness, the RMS of each image for PSNR, and the L1 of gradients, which weighs outlines above plains."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(output), gradients(target), strict=True))
    rms = ((output - target).square().mean((1, 2, 3)) + 1e-8).sqrt().mean()
    return F.l1_loss(output, target) + rms + edges


@torch.no_grad()
def held_out_psnr(model: Autoencoder, count: int = HELD_OUT, path: Path | None = None) -> float:
    """Mean PSNR in dB over `count` scenes at 256 px that training never sees; `path`: where to write a grid of them."""
    rng = Random(-1)
    target = pixels([render(sample_scene(rng), NATIVE_SIZE, NATIVE_SIZE) for _ in range(count)]).to(model.device)
    with autocast(model.device):
        output = torch.cat([model.decoder(model.encoder(part)) for part in target.split(16)]).float().clamp(-1, 1)
    error = ((output - target) / 2).square().mean((1, 2, 3))
    if path:
        save_grid(path, torch.cat([target[:8], output[:8], target[8:16], output[8:16]]), columns=8)
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def train_autoencoder(
    work: Path,
    minutes: float,
    device: torch.device,
    held_out: int = HELD_OUT,
    start: Autoencoder | None = None,
) -> Autoencoder:
    """Trains both halves; keeps work/autoencoder.pt and returns the averaged weights.

    Args:
        start: trained and standardized, None to train from scratch. The encoder then stays near this one, because a
            transformer that continues from the same checkpoint knows its latents.
    """
    model = Autoencoder(shortcuts=True) if start is None else copy.deepcopy(start)
    anchor = None if start is None else channels_last(start).encoder.requires_grad_(False)
    if anchor is not None:  # standardizing left it with weights of about 1e-5, which a step of 5e-4 would destroy
        model.encoder.conv_out.requires_grad_(False)
    batch, lr = (16, 2e-3) if start is None else (8, 5e-4)
    return _fit(model.to(device), work / "autoencoder.pt", minutes, held_out, batch, lr, noise=0.05, anchor=anchor)


def train_decoder(
    model: Autoencoder, work: Path, minutes: float, held_out: int = HELD_OUT, batch: int = 16, lr: float = 1e-3
) -> Autoencoder:
    """Trains the decoder alone; the encoder is frozen, so that cached latents stay valid. Keeps work/decoder.pt."""
    model.encoder.requires_grad_(False)
    return _fit(model, work / "decoder.pt", minutes, held_out, batch, lr, noise=0.08)


def _fit(
    model: Autoencoder,
    path: Path,
    minutes: float,
    held_out: int,
    batch: int,
    lr: float,
    noise: float,
    anchor: nn.Module | None = None,
) -> Autoencoder:
    """Trains for `minutes` in total.

    Args:
        held_out: scenes to measure the PSNR on at each save.
        noise: on the latents, as a share of their standard deviation, so that the decoder tolerates inexact latents.
        anchor: an encoder that the encoder stays near.
    """
    model = channels_last(model)
    average = copy.deepcopy(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = Muon(trained, lr=lr, adam_lr=lr, decay=0.01)

    def report() -> None:
        psnr = held_out_psnr(average, held_out, path.with_suffix(".png"))
        print(f"{path.stem} held-out PSNR {psnr:.2f} dB", flush=True)

    run = Run(path, minutes, {"model": model, "average": average, "optimizer": optimizer}, model.device, report)
    torch.manual_seed(run.step)
    rng = Random(run.step)
    for progress in run.steps():
        target = training_batch(rng, batch).to(model.device).contiguous(memory_format=torch.channels_last)
        with autocast(model.device):
            latents = model.encoder(target)
            jitter = noise * latents.detach().float().std() * torch.randn_like(latents)
            output = model.decoder(latents + jitter)
        loss = reconstruction_loss(output.float(), target)
        shift = latents.new_zeros(()) if anchor is None else F.mse_loss(latents, anchor(target))
        optimizer.zero_grad()
        (loss + ANCHOR * shift).backward()
        nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
        optimizer.set_scale(schedule(progress))
        optimizer.step()
        average_into(average, model, run.step, decay=0.998)
        run.record(loss=loss.item(), shift=shift.item())
    return average
