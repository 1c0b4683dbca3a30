"""Transformer and decoder on their kernels, compared with the references; for test_interpreted.py and test_on_gpu.py.

An op whose input requires a gradient takes the reference, so one model computes both.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.random_models import randomize, shape_of
from benchmarks.released_shapes import DC_AE_1_1
from engine.checkpoints.quantize import quantize_transformer
from engine.models.configs import DCAEConfig, SanaConfig
from engine.models.dc_ae import DCAEDecoder
from engine.models.sana import PackedText, SanaTransformer

from .launches import LaunchCounter
from .packs import DEVICE, INTERPRETED, SIZES, TEXT_LENGTHS, assert_close, make_layout, random

assert INTERPRETED or DEVICE.type == "cuda"
TINY = shape_of("tiny")
TIMESTEPS = torch.linspace(1, 999, len(SIZES)).to(DEVICE)
NORMED = dict(qk_norm="rms_norm_across_heads")
FAMILIES = {
    "clamped": dict(clamp_attention=True),
    "normed queries and keys": NORMED,
    "with positions": dict(interpolation_scale=1.0),
}


def randomized(module: nn.Module) -> nn.Module:
    """The module with random weights, on the device under test."""
    randomize(module, seed=1)
    return module.to(DEVICE)


def make_transformer(**options: Any) -> SanaTransformer:
    return randomized(SanaTransformer(replace(SanaConfig.from_dict(TINY.transformer), **options)))


def make_text(model: SanaTransformer) -> PackedText:
    embeddings = random(sum(TEXT_LENGTHS), model.config.caption_channels)
    return model.project_text(*embeddings.split(TEXT_LENGTHS))


def run_references(model: SanaTransformer, text: PackedText) -> torch.Tensor:
    tokens = random(make_layout().total, model.config.in_channels).requires_grad_()
    return model(tokens, make_layout(), TIMESTEPS, text).detach()


def run_kernels(model: SanaTransformer, text: PackedText) -> torch.Tensor:
    with torch.no_grad():
        return model(random(make_layout().total, model.config.in_channels), make_layout(), TIMESTEPS, text)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformer_kernels_match_references(family: str) -> None:
    model = make_transformer(**FAMILIES[family])
    with torch.no_grad():
        text = make_text(model)
    expected = run_references(model, text)
    model.pack()  # as on a GPU
    assert_close(run_kernels(model, text), expected, relative=1e-5)


def test_transformer_fp8_kernels_match_references() -> None:
    """Values near the middle of two FP8 values round to either in kernels and references: close, not equal."""
    model = make_transformer()
    model.pack()
    quantize_transformer(model)
    with torch.no_grad():
        text = make_text(model)
    assert_close(run_kernels(model, text), run_references(model, text), relative=0.03)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # numpy's, in the interpreter
def test_decoder_kernels_match_references() -> None:
    config = DCAEConfig.from_dict(TINY.vae)
    decoder = randomized(DCAEDecoder(config)).to(memory_format=torch.channels_last)
    latents = random(1, config.latent_channels, 2, 1)
    expected = decoder(latents.clone().requires_grad_()).detach()
    decoder.freeze()  # an up-sampling convolution becomes four convolutions of the small image
    with torch.no_grad():
        actual = decoder(latents)
    assert_close(actual, expected, relative=1e-5)


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter runs")
@pytest.mark.parametrize(
    ("family", "fp8", "expected"),
    [({}, False, 14), ({"clamp_attention": True}, False, 14), (NORMED, False, 16), (NORMED, True, 19)],
)
def test_transformer_launches_per_block(
    family: dict[str, Any], fp8: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launches that a third block adds, under guidance by an empty negative prompt."""
    layout, counts = make_layout(((2, 2), (2, 2)), (5, 1)), []  # small: the interpreter's time grows with the tokens
    for blocks in (2, 3):
        model = make_transformer(num_layers=blocks, **family)
        config = model.config
        model.pack()
        if fp8:
            quantize_transformer(model)
        with torch.no_grad():
            text = model.project_text(random(5, config.caption_channels), random(1, config.caption_channels))
            assert layout.tables.images == 2  # made here, once for all steps
            with monkeypatch.context() as patch, LaunchCounter(patch) as launches:
                model(random(layout.total, config.in_channels), layout, TIMESTEPS[:2], text)
        counts.append(launches.count)
    assert (counts[1] - counts[0]).total() == expected, counts[1] - counts[0]


@pytest.mark.skipif(not INTERPRETED, reason="counts what the interpreter runs")
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")  # numpy's, in the interpreter
def test_decoder_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages and blocks are those of the released decoder, with fewer channels."""
    narrow = dict(decoder_block_out_channels=(8, 16, 32, 32, 64, 64), attention_head_dim=8)
    config = DCAEConfig.from_dict(DC_AE_1_1 | dict(decoder_layers_per_block=(3,) * 6) | narrow)
    decoder = randomized(DCAEDecoder(config)).to(memory_format=torch.channels_last)
    decoder.freeze()
    latents = random(1, 32, 2, 2).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        decoder.deep(latents)  # makes the layouts
        with monkeypatch.context() as patch, LaunchCounter(patch) as launches:
            decoder(latents)
    assert launches.count.total() == 239, launches.count
