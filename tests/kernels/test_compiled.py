"""Every kernel, compiled ahead of time as the real models launch it: no spills, shared memory within the limit."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from kernels import (
    conv_act,
    cross_attention,
    fp8_linear,
    glu_conv,
    guided_step,
    linear_attention,
    modulate,
    rms_norm,
    to_uint8,
    upsample_conv,
)
from kernels.layout import TokenLayout

from .ahead import SHARED_LIMITS, record, resources
from .test_interpreted import kernel_names

META = torch.device("meta")
LARGE = {80: r"mma\.sync", 89: r"mma\.sync", 90: r"wgmma\.mma_async", 100: r"tcgen05\.mma"}
"""The matrix instructions of each compute capability, for products of 64 rows and more."""
SMALL = dict.fromkeys(LARGE, r"mma\.sync")
"""Those that remain for fewer rows, like the 32 x 32 state."""
FP8_PRODUCT = {89: r"mma\.sync\S*e4m3", 90: r"wgmma\.mma_async\S*e4m3", 100: r"tcgen05\.mma\S*f8f6f4"}
LAYOUT = TokenLayout(((32, 32),) * 2, ((0, 300), (300, 301)), META)
"""One 1024 px image of the 1.6B model under guidance."""
WIDTH, FFN, HEADS = 2240, 5600, 70


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=META)


@dataclass(frozen=True)
class Case:
    """A call of a launcher; the matrix instructions that its kernels must contain."""

    call: Callable[[], object]
    matrix: dict[str, dict[int, str]] = field(default_factory=dict)
    least_capability: int = 80


def linear_attention_case(dtype: torch.dtype, normed: bool = False) -> Case:
    q, k, v = tensor(LAYOUT.total, 3, HEADS, 32, dtype=dtype).unbind(1)
    weights = [tensor(WIDTH, dtype=dtype)] * 2 if normed else []
    matrix = {"_linear_attention_state_kernel": SMALL, "_linear_attention_kernel": LARGE}
    exact = dtype == torch.float32  # without the matrix units: these round to tf32
    call = lambda: linear_attention.linear_attention(q, k, v, LAYOUT, *weights)  # noqa: E731
    return Case(call, {} if exact else matrix)


def cross_attention_case(heads: int, width: int, normed: bool = False) -> Case:
    q, k, v = (tensor(rows, heads, width) for rows in (LAYOUT.attended, 301, 301))
    weight = tensor(heads * width) if normed else None
    call = lambda: cross_attention.cross_attention(q, k, v, LAYOUT, weight)  # noqa: E731
    return Case(call, {"_cross_attention_kernel": LARGE})


def modulate_case() -> Case:
    x, y = tensor(LAYOUT.total, WIDTH), tensor(LAYOUT.total, WIDTH)
    shift, scale, gate = tensor(2, 6, WIDTH).unbind(1)[:3]

    def call() -> None:
        modulate.modulate(x, shift, scale, LAYOUT)
        modulate.add_modulate(x, y, None, shift, scale, LAYOUT)
        modulate.add_modulate(x, y[: LAYOUT.attended], y[:2], shift, scale, LAYOUT)
        modulate.gated_add_modulate(x, gate, y, shift, scale, LAYOUT)
        modulate.gated_add(x, gate, y, LAYOUT)
        modulate.gated_add(x, gate, y, LAYOUT, limit=65504.0)

    return Case(call)


def modulate_fp8_case() -> Case:
    x, y = tensor(LAYOUT.total, WIDTH), tensor(LAYOUT.total, WIDTH)
    shift, scale, gate = tensor(2, 6, WIDTH).unbind(1)[:3]

    def call() -> None:
        modulate.modulate(x, shift, scale, LAYOUT, fp8=True)
        modulate.add_modulate(x, y[: LAYOUT.attended], y[:2], shift, scale, LAYOUT, fp8=True)
        modulate.gated_add_modulate(x, gate, y, shift, scale, LAYOUT, fp8=True)
        modulate.gated_add(x, gate, y, LAYOUT, fp8=True)
        modulate.gated_add(x, gate, y, LAYOUT, limit=65504.0, fp8=True)

    return Case(call, least_capability=89)


def rms_norm_case(pixels: int, width: int) -> Case:
    """Over the heads of the transformer, and over a full-resolution picture of the autoencoder."""
    x, vector = tensor(pixels, width), tensor(width)

    def call() -> None:
        rms_norm.rms_norm(x, vector, vector, residual=x)
        rms_norm.rms_norm(x, vector, vector, act="relu")
        rms_norm.inverse_rms(x)

    return Case(call)


def conv_case(width: int) -> Case:
    """A convolution with its activation; one that enlarges, from twice the channels, with its shortcut and without."""
    x, wide = tensor(1, width, 128, 128), tensor(1, 2 * width, 64, 64)
    weight, phases, bias = tensor(width, width, 3, 3), tensor(4, width, 2 * width, 2, 2), tensor(width)

    def call() -> None:
        conv_act.conv_act(x, weight, bias, "silu")
        upsample_conv.upsample_conv(wide, phases, bias, repeats=2)
        upsample_conv.upsample_conv(wide, phases, bias)

    return Case(call)


def glu_conv_case() -> Case:
    x, weight, bias = tensor(LAYOUT.total, 2 * FFN), tensor(2 * FFN, 1, 3, 3), tensor(2 * FFN)
    return Case(lambda: glu_conv.glu_conv(x, weight, bias, LAYOUT))


def guided_step_case() -> Case:
    x, old, noise = (tensor(1024, 32, dtype=torch.float32) for _ in range(3))
    index, guidance = tensor(1024, dtype=torch.int64), tensor(1024, 1, dtype=torch.float32)
    coefficients = tensor(1024, 6, dtype=torch.float32)
    output = tensor(LAYOUT.total, 32)
    call = lambda: guided_step.guided_step(x, output, index, index, guidance, old, noise, coefficients)  # noqa: E731
    return Case(call)


def fp8_linear_case(inner: int, outer: int) -> Case:
    x, weight = tensor(LAYOUT.total, inner), tensor(outer, inner, dtype=fp8_linear.FP8)
    scale, bias = tensor(outer, dtype=torch.float32), tensor(outer)
    call = lambda: fp8_linear.fp8_linear(x, weight, scale, bias)  # noqa: E731
    return Case(call, {"_fp8_linear_kernel": FP8_PRODUCT}, least_capability=89)


CASES = {
    "linear_attention-bf16": linear_attention_case(torch.bfloat16),
    "linear_attention-normed": linear_attention_case(torch.bfloat16, normed=True),
    "linear_attention-fp32": linear_attention_case(torch.float32),
    "cross_attention-1.6B": cross_attention_case(20, 112),
    "cross_attention-0.6B": cross_attention_case(16, 72),
    "cross_attention-normed": cross_attention_case(20, 112, normed=True),
    "modulate": modulate_case(),
    "modulate-fp8": modulate_fp8_case(),
    "rms_norm-heads": rms_norm_case(LAYOUT.total, WIDTH),
    "rms_norm-picture": rms_norm_case(4096 * 4096, 128),
    "conv-picture": conv_case(128),
    "conv-deep": conv_case(1024),
    "glu_conv": glu_conv_case(),
    "guided_step": guided_step_case(),
    "fp8_linear-in": fp8_linear_case(WIDTH, 2 * FFN),
    "fp8_linear-out": fp8_linear_case(FFN, WIDTH),
    "to_uint8": Case(lambda: to_uint8.to_uint8(tensor(3, 4096, 4096))),
}


RUNS = [(name, cc) for name, case in CASES.items() for cc in SHARED_LIMITS if cc >= case.least_capability]


@pytest.mark.parametrize(("name", "capability"), RUNS)
def test_compiles(name: str, capability: int, tmp_path: Path) -> None:
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


def test_every_kernel_is_compiled() -> None:
    launches = [launch for case in CASES.values() for launch in record(case.call)]
    assert {launch.name for launch in launches} == kernel_names()


def test_no_count_of_rows_chooses_another_kernel() -> None:
    """It would be compiled while a request waits."""
    for launch in (launch for case in CASES.values() for launch in record(case.call)):
        counts = [parameter for parameter in launch.kernel.params if parameter.name in ("rows", "m", "attended")]
        assert all(parameter.do_not_specialize for parameter in counts), launch.name
