"""The op tests' own guard: an element that an op never writes fails every comparison."""

import pytest
import torch

from .packs import assert_close


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_unwritten_element_fails_comparison(dtype: torch.dtype) -> None:
    zeros = torch.zeros(2, 3, 4, 5, dtype=dtype)
    for out in (
        torch.empty(2, 3, 4, 5, dtype=dtype, memory_format=torch.channels_last),
        torch.empty_like(zeros),
        zeros.new_empty(2, 3, 4, 5),
    ):
        out[1:] = 0
        out[0, 1:] = 0
        with pytest.raises(AssertionError, match="relative error nan"):
            assert_close(out, zeros)
        assert_close(out[1:], zeros[1:])
