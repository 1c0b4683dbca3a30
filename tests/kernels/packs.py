"""Packs of unequal images for the tests of the ops."""

import torch

from kernels.layout import TokenLayout

CPU = torch.device("cpu")
SIZES = ((3, 5), (3, 5), (1, 1), (4, 2), (1, 7), (5, 5))
TEXT_LENGTHS = (4, 4, 9, 2, 1, 1)


def make_layout(sizes: tuple[tuple[int, int], ...] = SIZES, lengths: tuple[int, ...] = TEXT_LENGTHS) -> TokenLayout:
    """Texts lie end to end in the order of the images."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    texts = tuple((end - length, end) for end, length in zip(ends, lengths, strict=True))
    return TokenLayout(sizes, texts, CPU)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows(layout: TokenLayout, image: int) -> slice:
    return slice(layout.offsets[image], layout.offsets[image + 1])


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 2e-6) -> None:
    """One relative tolerance, in the Euclidean norm; a NaN fails."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    assert error <= relative, f"relative error {error:.2e} > {relative:.0e}"
