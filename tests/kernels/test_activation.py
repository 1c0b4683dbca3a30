"""SiLU on the CPU gives a token the same bits whatever the batch size and the number of threads."""

import pytest
import torch
import torch.nn.functional as F

from kernels.activation import GRAIN_SIZE, VECTOR_SIZE, silu_reference, vectorized_prefix

TOKENS = [1, 2, 3, 5, 8, 11, 15, 16, 17, 35, 69, 137, 274, 545, 546, 547, 1093]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", [480, 5600])
def test_silu_bits_independent_of_batch_size(channels: int) -> None:
    x = torch.randn(1200, 2 * channels)
    for half in (x, x.chunk(2, -1)[1]):  # the input of the convolution, and its gate
        whole = silu_reference(half)
        torch.testing.assert_close(whole, F.silu(half))
        for tokens in TOKENS:
            assert torch.equal(silu_reference(half[:tokens]), whole[:tokens]), tokens


def test_silu_has_gradient() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    silu_reference(x).sum().backward()
    (expected,) = torch.autograd.grad(F.silu(x).sum(), x)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 8, 64])
def test_vectorized_prefix_splits_into_whole_vectors(threads: int) -> None:
    sizes = (0, 1, 64, GRAIN_SIZE, GRAIN_SIZE + 1, 2 * GRAIN_SIZE + 1, 3 * GRAIN_SIZE + 100, 960 * 547, 10**7 + 1)
    for elements in sizes:
        prefix = vectorized_prefix(elements, threads)
        parts = max(1, min(threads, -(-prefix // GRAIN_SIZE)))  # at::parallel_for
        assert parts == 1 or prefix % (parts * VECTOR_SIZE) == 0
        assert elements - prefix < min(GRAIN_SIZE, threads * VECTOR_SIZE)
