"""Layouts of unequal images, random tensors and tolerances for the op tests, on the device under test."""

import os
import random as random_numbers

import torch
import triton

from kernels.layout import TokenLayout

DEVICE = torch.device(os.environ.get("KERNEL_TESTS_DEVICE", "cpu"))
"""The device under test; test_on_gpu.py sets it for its process."""
SIZES = ((3, 5), (3, 5), (1, 1), (4, 2), (1, 7), (5, 5))
TEXT_LENGTHS = (4, 4, 9, 2, 1, 1)
INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the launchers run their kernels in Triton's interpreter, not the references."""
HALF = [torch.float16] if INTERPRETED else [torch.bfloat16, torch.float16]
"""Dtypes for ops with matrix products: the interpreter multiplies bf16 as if its bits were integers (Triton 3.7)."""


def make_layout(sizes: tuple[tuple[int, int], ...] = SIZES, lengths: tuple[int, ...] = TEXT_LENGTHS) -> TokenLayout:
    """A layout whose texts lie end to end in the order of the images."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    texts = tuple((end - length, end) for end, length in zip(ends, lengths, strict=True))
    return TokenLayout(sizes, texts, DEVICE)


def random_layouts(count: int = 4) -> list[TokenLayout]:
    """Layouts of one to five images of 1 x 1 to 9 x 11 tokens and texts of 1 to 70 tokens."""
    numbers = random_numbers.Random(0)
    layouts = []
    for images in [numbers.randint(1, 5) for _ in range(count)]:
        sizes = tuple((numbers.randint(1, 9), numbers.randint(1, 11)) for _ in range(images))
        lengths = sorted((numbers.choice((1, 2, 5, 64, 65, 70)) for _ in range(images)), reverse=True)
        layouts.append(make_layout(sizes, tuple(lengths)))
    return layouts


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(DEVICE)


def image_tokens(layout: TokenLayout, image: int) -> slice:
    """The tokens of one image."""
    return slice(layout.offsets[image], layout.offsets[image + 1])


def rms_normed(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """The root-mean-square norm over the last dimension in fp64, without a weight."""
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()


def layer_normed(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """The layer norm over the last dimension in fp64, without weight and bias."""
    wide = x.double()
    return (wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, keepdim=True, correction=0) + eps).sqrt()


def tolerance(dtype: torch.dtype, roundings: int = 1) -> float:
    """The relative error to allow: of fp32 sums, or of so many roundings to half precision."""
    return 2e-6 if dtype == torch.float32 else roundings * torch.finfo(dtype).eps


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 2e-6) -> None:
    """Compares in the Euclidean norm with one relative tolerance; a NaN fails."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    assert error <= relative, f"relative error {error:.2e} > {relative:.0e}"
