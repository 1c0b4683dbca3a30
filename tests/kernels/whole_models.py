"""Transformer and decoder on their kernels, beside themselves on the references: for test_interpreted.py and
test_on_gpu.py. An op whose input wants a gradient takes the reference, so one model computes both.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.random_models import randomize, shape_of
from benchmarks.real_size import DC_AE_1_1
from engine.checkpoints.quantize import quantize_transformer
from engine.models.configs import DCAEConfig, SanaConfig
from engine.models.dc_ae import DCAEDecoder
from engine.models.sana import PackedText, SanaTransformer

from .launches import Launches
from .packs import DEVICE, INTERPRETED, SIZES, TEXT_LENGTHS, assert_close, make_layout, random

assert INTERPRETED or DEVICE.type == "cuda"
TINY = shape_of("tiny")
TIMES = torch.linspace(1, 999, len(SIZES)).to(DEVICE)
NORMED = dict(qk_norm="rms_norm_across_heads")
FAMILIES = {
    "clamped": dict(clamp_attention=True),
    "normed queries and keys": NORMED,
    "with positions": dict(interpolation_scale=1.0),
}


def made(module: nn.Module) -> nn.Module:
    randomize(module, seed=1)
    return module.to(DEVICE)


def make_text(model: SanaTransformer) -> PackedText:
    embeddings = random(sum(TEXT_LENGTHS), model.config.caption_channels)
    return model.project_text(*embeddings.split(TEXT_LENGTHS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_transformer(family: str) -> None:
    config = replace(SanaConfig.from_dict(TINY.transformer), **FAMILIES[family])
    model, layout = made(SanaTransformer(config)), make_layout()
    with torch.no_grad():
        text = make_text(model)
        tokens, times = random(layout.total, config.in_channels), TIMES
        fast = model(tokens, layout, times, text)
        model.pack()  # as on a GPU
        packed = model(tokens, layout, times, text)
    slow = model(tokens.requires_grad_(), layout, times, text).detach()
    assert_close(fast, slow, relative=1e-5)
    assert_close(packed, slow, relative=1e-5)


def test_a_transformer_in_fp8() -> None:
    """Roundings of 3 bits fall to either side between kernels and references: alike, not equal."""
    model, layout = made(SanaTransformer(SanaConfig.from_dict(TINY.transformer))), make_layout()
    model.pack()
    quantize_transformer(model)
    with torch.no_grad():
        text = make_text(model)
        tokens, times = random(layout.total, model.config.in_channels), TIMES
        fast = model(tokens, layout, times, text)
    slow = model(tokens.requires_grad_(), layout, times, text).detach()
    assert_close(fast, slow, relative=0.03)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # of numpy, which interprets it
def test_a_decoder() -> None:
    config = DCAEConfig.from_dict(TINY.vae)
    decoder = DCAEDecoder(config)
    made(decoder).to(memory_format=torch.channels_last)
    latents = random(1, config.latent_channels, 2, 1)
    slow = decoder(latents.clone().requires_grad_()).detach()
    decoder.freeze()  # up-sampling convolutions become four convolutions of the small image
    with torch.no_grad():
        fast = decoder(latents)
    assert_close(fast, slow, relative=1e-5)


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter runs")
@pytest.mark.parametrize(
    ("family", "fp8", "expected"),
    [({}, False, 14), ({"clamp_attention": True}, False, 14), (NORMED, False, 16), (NORMED, True, 19)],
)
def test_launches_of_a_block(family: dict[str, Any], fp8: bool, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under guidance by an empty negative prompt: the difference that a third block makes."""
    layout, counts = make_layout(((4, 4), (4, 4)), (5, 1)), []
    for blocks in (2, 3):
        config = replace(SanaConfig.from_dict(TINY.transformer), num_layers=blocks, **family)
        model = made(SanaTransformer(config))
        model.pack()
        if fp8:
            quantize_transformer(model)
        with torch.no_grad():
            text = model.project_text(random(5, config.caption_channels), random(1, config.caption_channels))
            assert layout.tables.images == 2  # laid out before, once for all steps
            with monkeypatch.context() as patch, Launches(patch) as launches:
                model(random(layout.total, config.in_channels), layout, TIMES[:2], text)
        counts.append(launches.count)
    assert (counts[1] - counts[0]).total() == expected, counts[1] - counts[0]


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter runs")
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # of numpy, which interprets it
def test_launches_of_a_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the released decoder's stages and blocks, in narrow."""
    narrow = dict(decoder_block_out_channels=(8, 16, 32, 32, 64, 64), attention_head_dim=8)
    config = DCAEConfig.from_dict(DC_AE_1_1 | dict(decoder_layers_per_block=(3,) * 6) | narrow)
    decoder = made(DCAEDecoder(config)).to(memory_format=torch.channels_last)
    decoder.freeze()
    latents = random(1, 32, 2, 2).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        decoder.deep(latents)  # makes the layouts
        with monkeypatch.context() as patch, Launches(patch) as launches:
            decoder(latents)
    assert launches.count.total() == 239, launches.count
