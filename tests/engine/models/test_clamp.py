"""Self-attention of fp16-trained checkpoints is clamped to +-65504 in every dtype; that of others is not."""

from dataclasses import replace

import pytest
import torch
from diffusers import SanaTransformer2DModel

from engine.models.configs import SanaConfig
from engine.models.sana import SanaTransformer
from engine.models.sana_blocks import FLOAT16_MAX
from kernels.layout import TokenLayout
from kernels.modulate import gated_add

from ...checkpoints import random_transformer
from ...reference import REL, relative_error

LAYOUT = TokenLayout(((4, 4),), ((0, 3),), torch.device("cpu"))


def overflowing_transformer() -> SanaTransformer2DModel:
    """A model whose self-attention output reaches a few times the largest fp16, as in the released 1.0 models."""
    theirs = random_transformer({}, seed=2)
    with torch.no_grad():
        for block in theirs.transformer_blocks:
            block.attn1.to_v.weight.mul_(10.0)
            block.attn1.to_out[0].weight.mul_(8e4)  # each weight is within fp16
    return theirs


def ours(clamp: bool, dtype: torch.dtype) -> SanaTransformer:
    theirs = overflowing_transformer()
    config = replace(SanaConfig.from_dict(dict(theirs.config)), clamp_attention=clamp)
    model = SanaTransformer(config).eval()
    model.load_state_dict(theirs.state_dict())
    return model.to(dtype)


@torch.inference_mode()
def attention_output(clamp: bool, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    block = ours(clamp, dtype).blocks[0]
    out = block.attn1.self_attention(x, LAYOUT)
    return gated_add(torch.zeros_like(x), torch.ones_like(x[:1]), out, LAYOUT, block.limit)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_clamp_bounds_attention_in_every_dtype(dtype: torch.dtype) -> None:
    out = attention_output(clamp=True, dtype=dtype).float()
    bound = torch.tensor(FLOAT16_MAX, dtype=dtype).float()  # bf16 rounds it to 65536
    assert (out.abs() == bound).float().mean() > 0.1
    assert out.abs().max() == bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clamp_off_leaves_attention_unbounded(dtype: torch.dtype) -> None:
    assert attention_output(clamp=False, dtype=dtype).float().abs().max() > 2 * FLOAT16_MAX


@torch.inference_mode()
def test_clamp_forward_equals_diffusers() -> None:
    """diffusers clamps only in fp16; a hook applies the same clamp in fp32."""
    theirs = overflowing_transformer()
    for block in theirs.transformer_blocks:
        block.attn1.register_forward_hook(lambda _module, _args, out: out.clamp(-65504, 65504))
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 32, 4, 4, generator=generator), torch.randn(1, 3, 48, generator=generator)
    time = torch.tensor([400.0])
    expected = theirs(latents, text, time).sample[0].flatten(1).T
    unclamped = overflowing_transformer()(latents, text, time).sample[0].flatten(1).T

    def run(clamp: bool) -> torch.Tensor:
        model = ours(clamp, torch.float32)
        return model(latents[0].flatten(1).T, LAYOUT, time, model.project_text(text[0]))

    assert relative_error(run(True), expected) <= REL
    assert relative_error(run(False), unclamped) <= REL
    assert relative_error(run(False), expected) > 0.01
