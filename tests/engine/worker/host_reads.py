"""Recorder of operations that a CUDA graph cannot contain."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """Records operations that make the host wait for the device, or the device for values of the host."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "item", "unique", "equal.default")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(f"aten.{name}" in str(func) for name in self.FORBIDDEN):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
