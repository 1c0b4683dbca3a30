"""A row is the same to the last bit however many others there are, at the demo's widths, on any number of threads."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from engine.models.linear import SLICE, VECTOR, evenly_cut, linear, silu

ROWS = [1, 2, 3, 5, 8, 11, 15, 16, 17, 35, 69, 137, 274, 545, 546, 547, 1093]


@pytest.fixture(params=[1, 2, 5, 8], ids="{} threads".format)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("width", "out"), [(192, 960), (480, 192), (192, 32), (256, 192)])
def test_products_of_rows(width: int, out: int) -> None:
    x, weight, bias = torch.randn(1200, width), torch.randn(out, width), torch.randn(out)
    whole = linear(x, weight, bias)
    for rows in ROWS:
        assert torch.equal(linear(x[:rows], weight, bias), whole[:rows]), rows


@pytest.mark.usefixtures("_threads")
def test_silu_of_rows() -> None:
    x = torch.randn(1200, 960)
    whole = silu(x.clone())
    torch.testing.assert_close(whole, F.silu(x))
    for rows in ROWS:
        assert torch.equal(silu(x[:rows].clone()), whole[:rows]), rows


def test_silu_under_training_leaves_its_input() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    silu(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 8, 64])
def test_all_but_the_last_few_are_cut_into_whole_vectors(threads: int) -> None:
    for elements in (0, 1, 64, SLICE, SLICE + 1, 2 * SLICE + 1, 3 * SLICE + 100, 960 * 547, 10**7 + 1):
        even = evenly_cut(elements, threads)
        pieces = max(1, min(threads, -(-even // SLICE)))  # at::parallel_for
        assert pieces == 1 or even % (pieces * VECTOR) == 0
        assert elements - even < min(SLICE, threads * VECTOR)
