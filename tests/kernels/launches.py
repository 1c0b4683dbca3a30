"""Counts what a GPU would be given to do: kernels, as Triton's interpreter runs them, and torch's own operations."""

from collections import Counter
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
"""Views, memory without contents, and what fills up a product of few rows, which only the CPU does."""


class Launches(TorchDispatchMode):
    """What `count` holds is launched within it; a bias behind a library's convolution is a launch of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._interpreting = False
        execute = interpreter.GridExecutor.__call__

        def count_and_execute(executor: interpreter.GridExecutor, *args: object, **kwargs: object) -> None:
            self.count[executor.fn.__name__] += 1
            self._interpreting = True
            try:
                execute(executor, *args, **kwargs)
            finally:
                self._interpreting = False

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", count_and_execute)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE and not self._interpreting:
            self.count[name] += 1 + (name == "convolution" and args[2] is not None)
        return func(*args, **(kwargs or {}))
