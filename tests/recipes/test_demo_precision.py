"""bfloat16 is used only where it is fast."""

import pytest
import torch

from recipes.demo.precision import autocast, matrix_dtype


@pytest.mark.parametrize(("features", "dtype"), [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")])
def test_matrix_dtype_with_bf16(features: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    device = torch.device("cpu")
    assert matrix_dtype(device) is getattr(torch, dtype)
    with autocast(device):
        assert torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16


def test_matrix_dtype_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    device = torch.device("cpu")
    assert matrix_dtype(device) is torch.float32
    with autocast(device):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_matrix_dtype_on_gpu() -> None:
    assert matrix_dtype(torch.device("cuda")) is torch.bfloat16
