"""The engine process keeps freed memory, measured by the pages that it faults in again."""

import os
import subprocess
import sys

import pytest

from engine.worker.allocator import OPERATOR_SETTINGS

pytestmark = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="needs glibc")
FAULTS = """
import ctypes, resource
from engine.worker.allocator import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
MIB = 2**20

def use_and_free():
    blocks = [libc.malloc(MIB) for _ in range(32)]
    for block in blocks:
        ctypes.memset(block, 1, MIB)
    for block in blocks:
        libc.free(block)

for _ in range(2):
    use_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use_and_free()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


def faulted_bytes(**settings: str) -> int:
    """Bytes of pages that using 32 MiB once more faults in, in a process with these variables of the environment."""
    environment = {name: value for name, value in os.environ.items() if name not in OPERATOR_SETTINGS} | settings
    return int(subprocess.check_output([sys.executable, "-c", FAULTS], env=environment, text=True))


def test_freed_memory_kept_for_next_tensors() -> None:
    assert faulted_bytes() < 2**20


def test_freed_memory_operator_settings_win() -> None:
    assert faulted_bytes(MALLOC_TRIM_THRESHOLD_="131072") > 16 * 2**20
