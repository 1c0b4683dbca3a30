"""Counts the launches that a GPU would get: kernels, as Triton's interpreter executes them, and torch operations."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

FREE = {
    *("alias", "as_strided", "chunk", "detach", "expand", "permute", "select", "slice", "split", "squeeze"),
    *("t", "transpose", "unbind", "unsqueeze", "unsafe_split", "view", "_unsafe_view", "reshape"),
    *("empty", "empty_like", "empty_strided", "new_empty"),
    "constant_pad_nd",
}
"""Operations without a launch: views, uninitialised memory, and the padding of small products, for the CPU alone."""


def watch_kernels(
    patch: pytest.MonkeyPatch, started: Callable[[str], object], finished: Callable[[], object] = lambda: None
) -> None:
    """Calls `started` with the name of each kernel that the interpreter executes, and `finished` after it."""
    execute = interpreter.GridExecutor.__call__

    def execute_watched(executor: interpreter.GridExecutor, *args: object, **kwargs: object) -> None:
        started(executor.fn.__name__)
        try:
            execute(executor, *args, **kwargs)
        finally:
            finished()

    patch.setattr(interpreter.GridExecutor, "__call__", execute_watched)


class LaunchCounter(TorchDispatchMode):
    """Counts launches by name while it is entered. The bias of a library's convolution is a separate launch."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._interpreting = False
        watch_kernels(patch, self._start_kernel, self._finish_kernel)

    def _start_kernel(self, name: str) -> None:
        self.count[name] += 1
        self._interpreting = True  # the interpreter's own torch operations are no launches

    def _finish_kernel(self) -> None:
        self._interpreting = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE and not self._interpreting:
            self.count[name] += 1 + (name == "convolution" and args[2] is not None)
        return func(*args, **(kwargs or {}))
