"""A row is the same to the last bit however many others there are, at the demo's widths, on any number of threads."""

import pytest
import torch

from engine.models.linear import linear

ROWS = [1, 2, 3, 5, 8, 11, 15, 16, 17, 35, 69, 137, 274, 545, 546, 547, 1093]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("width", "out"), [(192, 960), (480, 192), (192, 32), (256, 192)])
def test_products_of_rows(width: int, out: int) -> None:
    x, weight, bias = torch.randn(1200, width), torch.randn(out, width), torch.randn(out)
    whole = linear(x, weight, bias)
    for rows in ROWS:
        assert torch.equal(linear(x[:rows], weight, bias), whole[:rows]), rows
