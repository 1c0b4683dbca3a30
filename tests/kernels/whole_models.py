"""Transformer and decoder on their kernels, beside themselves on the references: for test_interpreted.py and
test_on_gpu.py. An op whose input wants a gradient takes the reference, so one model computes both.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.random_models import randomize, shape_of
from engine.models.dc_ae import DCAEConfig, DCAEDecoder
from engine.models.sana import PackedText, SanaTransformer
from engine.models.sana_config import SanaConfig
from engine.quantize import quantize_transformer

from .packs import DEVICE, INTERPRETED, SIZES, TEXT_LENGTHS, assert_close, make_layout, random

assert INTERPRETED or DEVICE.type == "cuda"
TINY = shape_of("tiny")
TIMES = torch.linspace(1, 999, len(SIZES)).to(DEVICE)
FAMILIES = {
    "clamped": dict(clamp_attention=True),
    "normed queries and keys": dict(qk_norm="rms_norm_across_heads"),
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
