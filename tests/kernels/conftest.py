"""Memory is poisoned with NaN before an op writes to it; under Triton's interpreter the kernels that ran are listed."""

from collections.abc import Iterator

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RAN:
        terminalreporter.write_line("interpreted: " + " ".join(sorted(RAN)))
