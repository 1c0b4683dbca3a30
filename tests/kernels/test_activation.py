"""A row is the same to the last bit however many others there are, on any number of threads."""

import pytest
import torch
import torch.nn.functional as F

from kernels.activation import SLICE, VECTOR, evenly_cut, silu_reference

ROWS = [1, 2, 3, 5, 8, 11, 15, 16, 17, 35, 69, 137, 274, 545, 546, 547, 1093]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", [480, 5600])
def test_rows_do_not_depend_on_their_number(channels: int) -> None:
    x = torch.randn(1200, 2 * channels)
    for half in (x, x.chunk(2, -1)[1]):  # what the convolution reads, and its gate
        whole = silu_reference(half)
        torch.testing.assert_close(whole, F.silu(half))
        for rows in ROWS:
            assert torch.equal(silu_reference(half[:rows]), whole[:rows]), rows


def test_under_training_it_has_a_gradient() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    silu_reference(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 8, 64])
def test_all_but_the_last_few_are_cut_into_whole_vectors(threads: int) -> None:
    for elements in (0, 1, 64, SLICE, SLICE + 1, 2 * SLICE + 1, 3 * SLICE + 100, 960 * 547, 10**7 + 1):
        even = evenly_cut(elements, threads)
        pieces = max(1, min(threads, -(-even // SLICE)))  # at::parallel_for
        assert pieces == 1 or even % (pieces * VECTOR) == 0
        assert elements - even < min(SLICE, threads * VECTOR)
