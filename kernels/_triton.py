"""Triton, or where it cannot be installed (macOS, Windows) a stand-in that lets kernels be defined but not run.

Without Triton every op runs its reference: `uses_kernels` is false on the devices that those systems have.
"""

from types import SimpleNamespace
from typing import Any

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as error:
    if error.name != "triton":  # installed but broken
        raise

    class constexpr:
        """Type of arguments that are compile-time constants, and of module constants that kernels read."""

        def __init__(self, value: Any) -> None:
            self.value = value

    def jit(function: Any = None, **options: Any) -> Any:
        """The function as it is, for `@triton.jit` and for `@triton.jit(...)`."""
        return function or (lambda function: function)

    triton = SimpleNamespace(
        jit=jit, knobs=SimpleNamespace(runtime=SimpleNamespace(interpret=False), language=SimpleNamespace())
    )
    tl = SimpleNamespace(constexpr=constexpr, tensor=object, tuple=tuple)

__all__ = ["tl", "triton"]
