"""Poisons memory with NaN before an op writes to it, and lists the kernels that Triton's interpreter executed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from .launches import watch_kernels
from .packs import DEVICE, INTERPRETED

EXECUTED: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    if DEVICE.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 references must compute in fp32
        config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation")


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Deterministic mode fills new memory with NaN (integers: their maximum), so an unwritten element fails a test."""
    torch.use_deterministic_algorithms(True, warn_only=DEVICE.type == "cuda")
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _list_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        watch_kernels(monkeypatch, EXECUTED.add)


@pytest.fixture(autouse=True)
def _convert_loop_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loop bounds are arrays of one element, which Triton 3.6 converts in a way that numpy 2.4 refuses."""
    patch = interpreter._patch_lang_tensor

    def patch_and_convert(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_and_convert)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if EXECUTED:
        terminalreporter.write_line("interpreted: " + " ".join(sorted(EXECUTED)))
