"""Compiles without a GPU what a launcher would launch: its kernels, specialised as at run time."""

import inspect
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from .suite import KERNELS

SHARED_LIMITS = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Shared memory that one block may use on each compute capability (CUDA programming guide, table 27)."""
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}
OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Specialization:
    """What Triton's run-time cache tells launches of one kernel apart by: other values share the compiled kernel."""

    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    options: dict[str, int]


@dataclass(frozen=True)
class Launch:
    """A kernel, the arguments of a launch by name, and the options of the compiler."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def specialization(self) -> Specialization:
        signature: dict[str, str] = {}
        constants: dict[str, Any] = {}
        aligned: list[str] = []
        for parameter in self.kernel.params:
            name, value = parameter.name, self.arguments[parameter.name]
            plain = type(value) is int and not parameter.do_not_specialize
            if parameter.is_constexpr or value is None or (plain and value == 1):
                signature[name], constants[name] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[name] = "*" + TYPES[value.dtype]
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
            if isinstance(value, torch.Tensor) or (plain and value % 16 == 0):
                aligned.append(name)
        return Specialization(signature, constants, tuple(aligned), self.options)

    def compile(self, capability: int) -> CompiledKernel:
        special = self.specialization
        index = {parameter.name: (i,) for i, parameter in enumerate(self.kernel.params)}
        constants = {index[name]: value for name, value in special.constants.items()}
        attributes = {index[name]: [["tt.divisibility", 16]] for name in special.aligned}
        source = ASTSource(self.kernel, special.signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options)


def record(call: Callable[[], object]) -> list[Launch]:
    """The launches of `call`, of any op; its tensors may be on the meta device."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert all(0 < size < 2**31 for size in grid[:1])
            assert all(0 < size < 2**16 for size in grid[1:])

            def launch(**arguments: Any) -> None:  # by name: a positional argument fails
                options = {name: arguments.pop(name) for name in OPTIONS if name in arguments}
                bound = inspect.signature(self.kernel.fn).bind(**arguments)
                launches.append(Launch(self.kernel, bound.arguments, options))

            return launch

    with pytest.MonkeyPatch.context() as patch:
        for name, module in KERNELS.items():
            patch.setattr(module, name, Recorder(vars(module)[name]))
        call()
    return launches


def resources(kernel: CompiledKernel, folder: Path) -> dict[str, int]:
    """Registers, stack and local memory of the machine code; spilled registers take stack."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(cubin)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", output)}
