"""Products of a token do not depend on the number of tokens, to the last bit, at the demo's widths, on any threads."""

import pytest
import torch

from engine.models.linear import linear

TOKENS = [1, 2, 3, 5, 8, 11, 15, 16, 17, 35, 69, 137, 274, 545, 546, 547, 1093]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("width", "out"), [(192, 960), (480, 192), (192, 32), (256, 192)])
def test_linear_result_does_not_depend_on_token_count(width: int, out: int) -> None:
    x, weight, bias = torch.randn(1200, width), torch.randn(out, width), torch.randn(out)
    whole = linear(x, weight, bias)
    for tokens in TOKENS:
        assert torch.equal(linear(x[:tokens], weight, bias), whole[:tokens]), tokens
