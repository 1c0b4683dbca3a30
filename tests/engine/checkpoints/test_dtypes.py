"""The transformer's dtype: what `--dtype` names, and what `auto` stands for on each kind of device."""

import pytest
import torch

from engine import CheckpointError, DeviceError
from engine.checkpoints.dtypes import MIN_BFLOAT16_WIDTH, choose_dtype
from kernels.onednn import CPU_BFLOAT16

CPU, GPU, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")
DEMO, RELEASED = 192, 1152


def set_capabilities(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))


@pytest.mark.parametrize("trained", [torch.float16, torch.bfloat16, None])
def test_auto_dtype_on_cuda_is_that_of_training(trained: torch.dtype | None) -> None:
    assert choose_dtype("auto", GPU, trained, RELEASED).dtype == (trained or torch.bfloat16)
    assert choose_dtype("float32", GPU, trained, RELEASED).dtype == torch.float32
    assert choose_dtype("bfloat16", GPU, trained, RELEASED).dtype == torch.bfloat16


@pytest.mark.parametrize("instructions", CPU_BFLOAT16)
def test_auto_dtype_on_cpu_with_bf16_products(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_capabilities(monkeypatch, instructions, "avx2")
    for trained in (torch.float16, torch.bfloat16, None):
        choice = choose_dtype("auto", CPU, trained, RELEASED)
        assert (choice.dtype, choice.name) == (torch.bfloat16, "bfloat16")
        assert instructions in choice.reason
    demo = choose_dtype("auto", CPU, torch.bfloat16, DEMO)
    assert (demo.dtype, demo.reason) == (torch.float32, "bfloat16 is slower at a width of 192")
    assert DEMO < MIN_BFLOAT16_WIDTH <= RELEASED


def test_auto_dtype_on_cpu_without_bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    set_capabilities(monkeypatch, "avx2", "avx512_f")
    choice = choose_dtype("auto", CPU, torch.bfloat16, RELEASED)
    assert (choice.dtype, choice.reason) == (torch.float32, "this CPU has none of amx_bf16, avx512_bf16")
    assert choose_dtype("bfloat16", CPU, None, RELEASED).dtype == torch.bfloat16
    assert choose_dtype("auto", MPS, None, RELEASED).dtype == torch.float32


def test_capabilities_of_this_cpu_are_known_to_torch() -> None:
    if torch.cpu.get_capabilities()["architecture"] == "x86_64":
        assert set(CPU_BFLOAT16) <= torch.cpu.get_capabilities().keys()


def test_dtype_unknown_or_overflowing_is_refused() -> None:
    assert choose_dtype("float16", GPU, torch.float16, RELEASED).dtype == torch.float16
    with pytest.raises(CheckpointError, match="trained in bfloat16 and overflows in float16"):
        choose_dtype("float16", GPU, torch.bfloat16, RELEASED)
    with pytest.raises(DeviceError, match=r"dtype must be auto, .*, got 'float8'"):
        choose_dtype("float8", CPU, None, RELEASED)
