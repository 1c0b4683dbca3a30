"""FP8: which layers are quantized, which devices are refused, and the error in images of the embedded model."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from benchmarks.psnr import psnr
from engine import DeviceError, EngineConfig
from engine.checkpoints.quantize import FP8Linear, check_quantization, quantize_transformer
from engine.models.configs import SanaConfig
from engine.models.sana import SanaTransformer
from engine.worker.core import EngineCore

from ..test_demo import REQUESTS
from ..worker.stepping import Engine

MIN_PSNR = 28.0


def test_fp8_images_are_close_to_fp32() -> None:
    full, eight = Engine("demo").generate(REQUESTS), Engine("demo", quantization="fp8").generate(REQUESTS)
    for expected, drawn in zip(full, eight, strict=True):
        assert np.std(expected) > 10
        assert MIN_PSNR <= psnr(drawn, expected) < 80  # equal images would mean that nothing was quantized


def test_fp8_replaces_large_products_only() -> None:
    config = SanaConfig.from_dict({"num_layers": 1})
    with torch.device("meta"):
        transformer = SanaTransformer(config)
        kept = sum(p.numel() for p in transformer.parameters())
        quantize_transformer(transformer)
    quantized = {name for name, module in transformer.named_modules() if isinstance(module, FP8Linear)}
    block = "transformer_blocks.0."
    attentions = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0")
    assert quantized == {block + name for name in (*attentions, "ff.conv_inverted", "ff.conv_point")}
    stored = sum(m.weight.numel() for m in transformer.modules() if isinstance(m, FP8Linear))
    weights_left = sum(p.numel() for p in transformer.parameters())
    assert stored + weights_left == kept
    assert all(m.weight.element_size() == 1 for m in transformer.modules() if isinstance(m, FP8Linear))


def test_fp8_packed_projections_equal_separate_ones() -> None:
    """Packed as on a GPU. Each output channel has its own scale."""
    torch.manual_seed(0)
    alone = SanaTransformer(SanaConfig(num_layers=1, num_attention_heads=2, num_cross_attention_heads=2))
    packed = deepcopy(alone)
    packed.pack()
    for transformer in (alone, packed):
        quantize_transformer(transformer)
    attention = packed.blocks[0].attn1
    assert not {"attn1.to_q", "attn1.to_k", "attn1.to_v"} & {name for name, _ in packed.blocks[0].named_modules()}
    layers = [getattr(alone.blocks[0].attn1, name) for name in ("to_q", "to_k", "to_v")]
    assert torch.equal(attention.to_qkv.weight.float(), torch.cat([layer.weight.float() for layer in layers]))
    assert torch.equal(attention.to_qkv.weight_scale, torch.cat([layer.weight_scale for layer in layers]))


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_on_older_gpu_is_refused_by_name(
    capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda", 0)
    check_quantization("none", device)
    if fits:
        check_quantization("fp8", device)
        return
    with pytest.raises(DeviceError, match=rf"needs compute capability 8\.9 .*cuda:0 has 8\.{capability[1]}"):
        check_quantization("fp8", device)


def test_quantization_unknown_is_refused() -> None:
    with pytest.raises(DeviceError, match="quantization must be none or fp8, got 'int4'"):
        EngineCore(EngineConfig(device="cpu", quantization="int4"), lambda event: None)
