"""Every kernel, compiled ahead of time as the real models launch it: no spills, shared memory within the limit."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from kernels.conv_act import conv_act
from kernels.cross_attention import cross_attention
from kernels.fp8_linear import FP8, fp8_linear
from kernels.glu_conv import glu_conv
from kernels.guided_step import guided_step
from kernels.layout import TokenLayout
from kernels.linear_attention import linear_attention
from kernels.modulate import add_modulate, gated_add, gated_add_modulate, modulate
from kernels.rms_norm import inverse_rms, rms_norm
from kernels.to_uint8 import to_uint8
from kernels.upsample_conv import upsample_conv

from .ahead import SHARED_LIMITS, record, resources
from .suite import KERNELS

META = torch.device("meta")
LARGE = {80: r"mma\.sync", 89: r"mma\.sync", 90: r"wgmma\.mma_async", 100: r"tcgen05\.mma"}
"""The matrix instructions of each compute capability for products of at least 64 rows."""
SMALL = dict.fromkeys(LARGE, r"mma\.sync")
"""The matrix instructions for products of fewer rows, such as the 32 x 32 state."""
FP8_PRODUCT = {89: r"mma\.sync\S*e4m3", 90: r"wgmma\.mma_async\S*e4m3", 100: r"tcgen05\.mma\S*f8f6f4"}
LAYOUT = TokenLayout(((32, 32),) * 2, ((0, 300), (300, 301)), META)
"""One 1024 px image of the 1.6B model under guidance."""
WIDTH, FFN, HEADS = 2240, 5600, 70


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


@dataclass(frozen=True)
class Case:
    """Calls of launchers, the matrix instructions that their kernels must contain, and the GPUs that run them."""

    call: Callable[[], object]
    matrix: dict[str, dict[int, str]] = field(default_factory=dict)
    min_capability: int = 80


def linear_attention_case(layout: TokenLayout, dtype: torch.dtype, normed: bool = False) -> Case:
    q, k, v = tensor(layout.total, 3, HEADS, 32, dtype=dtype).unbind(1)
    weights = [tensor(WIDTH, dtype=dtype)] * 2 if normed else []
    matrix = {"_linear_attention_state_kernel": SMALL, "_linear_attention_kernel": LARGE}
    exact = dtype == torch.float32  # without matrix instructions, which round to tf32
    return Case(lambda: linear_attention(q, k, v, layout, *weights), {} if exact else matrix)


def cross_attention_case(layout: TokenLayout, heads: int, width: int, normed: bool = False) -> Case:
    q, k, v = (tensor(tokens, heads, width) for tokens in (layout.attended, 301, 301))
    weight = tensor(heads * width) if normed else None
    return Case(lambda: cross_attention(q, k, v, layout, weight), {"_cross_attention_kernel": LARGE})


def modulate_case(layout: TokenLayout, fp8: bool) -> Case:
    x, y = tensor(layout.total, WIDTH), tensor(layout.total, WIDTH)
    shift, scale, gate = tensor(len(layout.sizes), 6, WIDTH).unbind(1)[:3]
    constants = tensor(len(layout.sizes), WIDTH)

    def call() -> None:
        modulate(x, shift, scale, layout, fp8=fp8)
        if not fp8:
            add_modulate(x, y, None, shift, scale, layout)
        add_modulate(x, y[: layout.attended], constants, shift, scale, layout, fp8=fp8)
        gated_add_modulate(x, gate, y, shift, scale, layout, fp8=fp8)
        gated_add(x, gate, y, layout, fp8=fp8)
        gated_add(x, gate, y, layout, limit=65504.0, fp8=fp8)

    return Case(call, min_capability=89 if fp8 else 80)


def rms_norm_case(rows: int, width: int) -> Case:
    x, vector = tensor(rows, width), tensor(width)

    def call() -> None:
        rms_norm(x, vector, vector, residual=x)
        rms_norm(x, vector, vector, act="relu")
        inverse_rms(x)

    return Case(call)


def conv_case(side: int, width: int) -> Case:
    """A convolution with its activation; one that upsamples, from twice the channels, with its shortcut and without."""
    x, wide = tensor(1, width, 2 * side, 2 * side), tensor(1, 2 * width, side, side)
    weight, phases, bias = tensor(width, width, 3, 3), tensor(4, width, 2 * width, 2, 2), tensor(width)

    def call() -> None:
        conv_act(x, weight, bias, "silu")
        upsample_conv(wide, phases, bias, repeats=2)
        upsample_conv(wide, phases, bias)

    return Case(call)


def glu_conv_case(layout: TokenLayout) -> Case:
    x, weight, bias = tensor(layout.total, 2 * FFN), tensor(2 * FFN, 1, 3, 3), tensor(2 * FFN)
    return Case(lambda: glu_conv(x, weight, bias, layout))


def guided_step_case(tokens: int) -> Case:
    x, old, noise = (tensor(tokens, 32, dtype=torch.float32) for _ in range(3))
    index, guidance = tensor(tokens, dtype=torch.int64), tensor(tokens, 1, dtype=torch.float32)
    coefficients = tensor(tokens, 6, dtype=torch.float32)
    output = tensor(2 * tokens, 32)
    return Case(lambda: guided_step(x, output, index, index, guidance, old, noise, coefficients))


def fp8_linear_case(rows: int, inner: int, outer: int) -> Case:
    x, weight = tensor(rows, inner), tensor(outer, inner, dtype=FP8)
    scale, bias = tensor(outer, dtype=torch.float32), tensor(outer)
    return Case(lambda: fp8_linear(x, weight, scale, bias), {"_fp8_linear_kernel": FP8_PRODUCT}, min_capability=89)


def make_cases(layout: TokenLayout, side: int) -> dict[str, Case]:
    """The launches of the real models on a layout, and of the autoencoder's up-sampling of side x side pixels."""
    return {
        "linear_attention-bf16": linear_attention_case(layout, torch.bfloat16),
        "linear_attention-normed": linear_attention_case(layout, torch.bfloat16, normed=True),
        "linear_attention-fp32": linear_attention_case(layout, torch.float32),
        "cross_attention-1.6B": cross_attention_case(layout, 20, 112),
        "cross_attention-0.6B": cross_attention_case(layout, 16, 72),
        "cross_attention-normed": cross_attention_case(layout, 20, 112, normed=True),
        "modulate": modulate_case(layout, fp8=False),
        "modulate-fp8": modulate_case(layout, fp8=True),
        "rms_norm-heads": rms_norm_case(layout.total, WIDTH),
        "rms_norm-image": rms_norm_case((64 * side) ** 2, 128),
        "conv-image": conv_case(side, 128),
        "conv-deep": conv_case(side, 1024),
        "glu_conv": glu_conv_case(layout),
        "guided_step": guided_step_case(layout.attended),
        "fp8_linear-in": fp8_linear_case(layout.total, WIDTH, 2 * FFN),
        "fp8_linear-out": fp8_linear_case(layout.total, FFN, WIDTH),
    }


CASES = make_cases(LAYOUT, side=64) | {"to_uint8": Case(lambda: to_uint8(tensor(3, 4096, 4096)))}
RUNS = [(name, cc) for name, case in CASES.items() for cc in SHARED_LIMITS if cc >= case.min_capability]


@pytest.mark.parametrize(("name", "capability"), RUNS)
def test_compiled_kernels_fit_hardware(name: str, capability: int, tmp_path: Path) -> None:
    case = CASES[name]
    launches = record(case.call)
    assert launches
    for launch in launches:
        kernel = launch.compile(capability)
        used = resources(kernel, tmp_path)
        assert used["REG"] > 0
        assert used["STACK"] == used["LOCAL"] == 0, f"{launch.name} spills registers"
        assert kernel.metadata.shared <= SHARED_LIMITS[capability]
        if launch.name in case.matrix:
            assert re.search(case.matrix[launch.name][capability], kernel.asm["ptx"]), launch.name


def test_compiled_cases_cover_every_kernel() -> None:
    launches = [launch for case in CASES.values() for launch in record(case.call)]
    assert {launch.name for launch in launches} == set(KERNELS)


@pytest.mark.parametrize(("size", "side"), [((1, 1), 1), ((31, 33), 33)], ids=str)
def test_compiled_kernels_shared_by_token_counts(size: tuple[int, int], side: int) -> None:
    """Another variant would be compiled while a request waits."""
    layout = TokenLayout((size, (1, 1)), ((0, 300), (300, 301)), META)
    for name, case in make_cases(layout, side).items():
        expected = [launch.specialization for launch in record(CASES[name].call)]
        assert [launch.specialization for launch in record(case.call)] == expected, name
