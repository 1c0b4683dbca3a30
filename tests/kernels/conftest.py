"""Memory is poisoned with NaN before an op writes to it; under Triton's interpreter the kernels that ran are listed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from triton.runtime import interpreter

from .packs import DEVICE

RAN: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    if DEVICE.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # references in fp32 shall compute in fp32
        config.addinivalue_line("filterwarnings", "ignore:.*does not have a deterministic implementation")


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """torch fills new memory with NaN (integers: the largest) in deterministic mode."""
    torch.use_deterministic_algorithms(True, warn_only=DEVICE.type == "cuda")
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _list_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not triton.knobs.runtime.interpret:
        return
    execute = interpreter.GridExecutor.__call__

    def execute_and_list(self: interpreter.GridExecutor, *args: object, **kwargs: object) -> None:
        execute(self, *args, **kwargs)
        RAN.add(self.fn.__name__)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", execute_and_list)


@pytest.fixture(autouse=True)
def _count_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops end at arrays of one element, which numpy 2.4 refuses to take for numbers as Triton 3.6 asks it to."""
    patch = interpreter._patch_lang_tensor

    def patch_and_convert(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_and_convert)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RAN:
        terminalreporter.write_line("interpreted: " + " ".join(sorted(RAN)))
