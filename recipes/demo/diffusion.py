"""Stages two and three: text encoder and transformer trained together on cached latents, 128 px first, then 256 px.

Rectified flow: x_t = (1 - t) x_0 + t eps, the network predicts eps - x_0; t is logit-normal, shifted as the sampler is.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import nn

from engine.models.sana import SanaConfig, SanaTransformer
from kernels.layout import TokenLayout

from .captions import draw_caption
from .latents import LatentSet
from .optimizer import Muon, schedule
from .settings import FLOW_SHIFT, TRANSFORMER
from .text import TextEncoder, load_tokenizer

DROPOUT = 0.1
REPEATS = 4
CPU = torch.device("cpu")


class Generator(nn.Module):
    """Prompt to velocity: the two networks that the diffusion loss trains."""

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(load_tokenizer(work))
        self.transformer = SanaTransformer(SanaConfig.from_dict(TRANSFORMER))
        initialize(self.transformer)

    def forward(self, x: torch.Tensor, times: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
        """x: [N, h, w, 32]; times in 0..1; rows: caption tokens, each for N / len(rows) images, empty ones last."""
        n, height, width, channels = x.shape
        texts = self.text_encoder(rows)
        ends = torch.tensor([len(t) for t in texts]).cumsum(0).tolist()
        spans = zip([0, *ends[:-1]], ends, strict=True)
        shared = tuple(span for span in spans for _ in range(n // len(rows)))
        layout = TokenLayout(((height, width),) * n, shared, CPU)
        text = self.transformer.project_text(torch.cat(texts))
        velocity: torch.Tensor = self.transformer(x.reshape(-1, channels), layout, times * 1000, text)
        return velocity.view(x.shape)


def initialize(model: SanaTransformer) -> None:
    """Xavier for products, small time and caption paths, a silent output: the network starts as the zero velocity."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "scale_shift_table" in name:
            continue
        if "time_embed" in name or "caption_projection" in name:
            nn.init.normal_(parameter, std=0.02)
        elif "conv_depth" not in name:
            nn.init.xavier_uniform_(parameter.flatten(1))
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    nn.init.constant_(model.caption_norm.weight, 0.1)  # the paper's small scale on the text


@dataclass
class Stage:
    """One resolution: until `minutes` of training in all."""

    data: LatentSet
    batch: int
    minutes: float


def shifted_times(texts: int, repeats: int) -> torch.Tensor:
    """Logit-normal times, shifted as the sampler's sigmas are; stratified over the repeats of a text."""
    strata = (torch.arange(repeats) + torch.rand(texts, repeats)) / repeats
    t = torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4)).sigmoid().flatten()
    return FLOW_SHIFT * t / (1 + (FLOW_SHIFT - 1) * t)


def flow_loss(model: Generator, data: LatentSet, batch: int, rng: Random) -> torch.Tensor:
    """Each text serves REPEATS images with times and noises of their own: encoding it costs as much as an image."""
    picks = [rng.randrange(len(data.scenes)) for _ in range(batch // REPEATS)]
    captions = ["" if rng.random() < DROPOUT else draw_caption(data.scenes[i], rng) for i in picks]
    rows = [model.text_encoder.token_ids(c) if c else [] for c in captions]
    order = sorted(range(len(picks)), key=lambda k: -len(rows[k]))  # the empty captions last
    picks, rows = [picks[k] for k in order], [rows[k] for k in order]
    x0 = data.latents[picks].float().repeat_interleave(REPEATS, dim=0)
    noise, times = torch.randn_like(x0), shifted_times(len(picks), REPEATS)
    t = times[:, None, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model((1 - t) * x0 + t * noise, times, rows)
    return F.mse_loss(velocity.float(), noise - x0)


def train_generator(work: Path, stages: list[Stage], lr: float = 1.5e-3) -> Generator:
    """Run the stages on one schedule, resuming from work/generator.pt. Returns the averaged weights."""
    torch.manual_seed(1)
    model, average = Generator(work), Generator(work)
    optimizer = Muon(model.named_parameters(), lr=lr, adam_lr=lr, decay=0.02)
    average.load_state_dict(model.state_dict())
    path, total = work / "generator.pt", stages[-1].minutes * 60
    step, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    rng, started, saved, running = Random(step + 1), time.monotonic(), spent, 0.0
    while spent < total:
        stage = next(s for s in stages if spent < s.minutes * 60)
        loss = flow_loss(model, stage.data, stage.batch, rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.set_scale(schedule(spent / total))
        optimizer.step()
        step += 1
        with torch.no_grad():
            weight = 1 - min(0.995, step / (step + 20))  # short: a new resolution must not drag the old along
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)
        running += loss.item() / 50
        spent, started = spent + time.monotonic() - started, time.monotonic()
        if step % 50 == 0:
            print(f"dit step {step} px {stage.data.size * 32} minutes {spent / 60:.1f} loss {running:.4f}", flush=True)
            running = 0.0
        if spent - saved > 180 or spent >= total:
            saved = spent
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step, "spent": spent}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            started = time.monotonic()
    return average
