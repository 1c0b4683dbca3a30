"""The kernels that exist, the tests that run them, and processes for these tests.

Triton reads TRITON_INTERPRET, and the tests their device, when they are imported: hence processes.
"""

import os
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import kernels

ROOT = Path(__file__).parents[2]
KERNELS: dict[str, ModuleType] = {
    name: module
    for module in (import_module(f"kernels.{info.name}") for info in pkgutil.iter_modules(kernels.__path__))
    for name in vars(module)
    if re.fullmatch(r"_\w+_kernel", name)
}
"""The module that defines each kernel."""
OP_TESTS = sorted({f"tests/kernels/test_{module.__name__.rpartition('.')[2]}.py" for module in KERNELS.values()})
MODEL_TESTS = ["tests/kernels/whole_models.py", "tests/kernels/whole_steps.py"]


def start_tests(tests: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """A pytest process that runs `tests` with additional environment variables; its output is one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
