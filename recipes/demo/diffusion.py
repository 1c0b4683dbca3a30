"""Diffusion: text encoder and transformer trained together on cached latents, 128 px, then 256 px, then all sizes.

Rectified flow: x_t = (1 - t) x_0 + t eps, the network predicts eps - x_0; t is logit-normal, shifted as the sampler is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.models.configs import SanaConfig
from engine.models.sana import SanaTransformer
from kernels.layout import TokenLayout

from .captions import sample_caption
from .cells import CLASSES, cell_loss
from .latents import LatentSet
from .noise import with_noise
from .optimizer import Muon, schedule
from .precision import autocast
from .run import Run, Stateful, average_into
from .settings import FLOW_SHIFT, TRANSFORMER
from .text import TextEncoder

DROPOUT = 0.1
REPEATS = 2
ALIGNED_BLOCK = 2  # of 7: its output should determine the position of each object
ALIGNMENT = 0.15  # weight of the alignment loss; the diffusion loss has weight 1


class Generator(nn.Module):
    """Text encoder and transformer, trained by the diffusion loss, and a probe that only training needs."""

    def __init__(self, text_encoder: TextEncoder) -> None:
        super().__init__()
        config = SanaConfig.from_dict(TRANSFORMER)
        self.text_encoder = text_encoder
        self.transformer = SanaTransformer(config)
        self.probe = nn.Linear(config.width, sum(CLASSES))
        self.hidden = torch.empty(0)
        self.transformer.blocks[ALIGNED_BLOCK + 1].register_forward_pre_hook(self.keep_hidden)
        initialize(self.transformer)

    def keep_hidden(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.hidden = inputs[0]  # [T, width]

    def forward(self, x: torch.Tensor, times: torch.Tensor, captions: list[list[int]]) -> torch.Tensor:
        """Velocity [N, h, w, 32].

        Args:
            x: noisy latents [N, h, w, 32].
            times: [N] in 0..1.
            captions: token ids, each for N / len(captions) images; empty captions last.
        """
        n, height, width, channels = x.shape
        texts = self.text_encoder(captions)
        ends = torch.tensor([len(t) for t in texts]).cumsum(0).tolist()
        spans = zip([0, *ends[:-1]], ends, strict=True)
        shared = tuple(span for span in spans for _ in range(n // len(captions)))
        layout = TokenLayout(((height, width),) * n, shared, x.device)
        text = self.transformer.project_text(*texts)
        velocity: torch.Tensor = self.transformer(x.reshape(-1, channels), layout, times * 1000, text)
        return velocity.view(x.shape)


def initialize(model: SanaTransformer) -> None:
    """Xavier for matrices, small weights for time and caption, zeros for the output: the initial velocity is zero.

    The tables of modulation are normal with variance 1 / width, as in PixArt.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        if "scale_shift_table" in name:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        elif "time_embed" in name or "caption_projection" in name:
            nn.init.normal_(parameter, std=0.02)
        elif "conv_depth" not in name:
            nn.init.xavier_uniform_(parameter.flatten(1))
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    nn.init.constant_(model.caption_norm.weight, 0.1)  # the paper's small scale on the text


@dataclass(frozen=True)
class Stage:
    """Sizes trained together until `minutes` of training in total.

    Args:
        mix: latents, batch and frequency of each size.
    """

    mix: tuple[tuple[LatentSet, int, float], ...]
    minutes: float

    def sample(self, rng: Random) -> tuple[LatentSet, int]:
        """Latents and batch of a random size."""
        data, batch, _ = rng.choices(self.mix, [weight for _, _, weight in self.mix])[0]
        return data, batch


@dataclass(frozen=True)
class Rates:
    """Learning rates of the transformer and of the text encoder, which is pretrained by reading.py."""

    transformer: float
    text: float


def shifted_times(texts: int, repeats: int) -> torch.Tensor:
    """Logit-normal times, shifted as the sampler's sigmas are; stratified over the repeats of a text."""
    strata = (torch.arange(repeats) + torch.rand(texts, repeats)) / repeats
    t = torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4)).sigmoid().flatten()
    return FLOW_SHIFT * t / (1 + (FLOW_SHIFT - 1) * t)


def flow_loss(model: Generator, data: LatentSet, batch: int, rng: Random) -> tuple[torch.Tensor, torch.Tensor]:
    """(velocity loss, probe loss). Each text serves REPEATS images with different times and noise, because encoding it
    costs as much as an image."""
    picks = [rng.randrange(len(data.scenes)) for _ in range(batch // REPEATS)]
    captions = ["" if rng.random() < DROPOUT else with_noise(sample_caption(data.scenes[i], rng), rng) for i in picks]
    texts = [model.text_encoder.token_ids(c) if c else [] for c in captions]
    order = sorted(range(len(picks)), key=lambda k: -len(texts[k]))  # the empty captions last
    picks, texts = [picks[k] for k in order], [texts[k] for k in order]
    device = model.text_encoder.device
    x0 = data.latents[picks].float().repeat_interleave(REPEATS, dim=0).to(device)
    noise, times = torch.randn_like(x0), shifted_times(len(picks), REPEATS).to(device)
    t = times[:, None, None, None]
    with autocast(device):
        velocity = model((1 - t) * x0 + t * noise, times, texts)
    captioned = sum(map(bool, texts)) * REPEATS  # an empty caption determines no positions
    cells = data.cells[picks].repeat_interleave(REPEATS, dim=0)[:captioned].flatten(0, 1).to(device)
    return F.mse_loss(velocity.float(), noise - x0), cell_loss(model.probe(model.hidden.float())[: len(cells)], cells)


def train_generator(
    model: Generator,
    average: Generator,
    work: Path,
    stages: list[Stage],
    rates: Rates,
    on_save: Callable[[], None] = lambda: None,
) -> None:
    """Runs the stages on one schedule, resuming from work/generator.pt. `average` receives the averaged weights."""
    torch.manual_seed(1)
    named = list(model.named_parameters())
    text = [(name, p) for name, p in named if name.startswith("text_encoder")]
    rest = [(name, p) for name, p in named if not name.startswith("text_encoder")]
    optimizers = {
        "text_optimizer": Muon(text, lr=rates.text, adam_lr=rates.text, decay=0.02),
        "optimizer": Muon(rest, lr=rates.transformer, adam_lr=rates.transformer, decay=0.02),
    }
    parts: dict[str, Stateful] = {"model": model, "average": average, **optimizers}
    run = Run(work / "generator.pt", stages[-1].minutes, parts, model.text_encoder.device, on_save)
    rng = Random(run.step + 1)
    for progress in run.steps():
        stage = next(s for s in stages if run.spent < s.minutes * 60)
        flow, cells = flow_loss(model, *stage.sample(rng), rng)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (flow + ALIGNMENT * cells).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.set_scale(schedule(progress))
            optimizer.step()
        average_into(average, model, run.step, decay=0.995)  # short: the average must follow each new size
        run.record(flow=flow.item(), cells=cells.item())
