"""glibc's allocator in a process that computes on the CPU: freed memory stays for the next tensors.

By default glibc maps every tensor above 32 MiB anew, and adapts its thresholds to smaller ones, so that each decode
grows the heap and returns it. Resident memory swings, and each page is faulted in and cleared again, which takes longer
than most operations: a norm with a residual of 64 MiB in fp32 took 289 ms of CPU time, and takes 40 (`rms_norm` on one
core of an AMD EPYC, 2026-11-27).
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
KEPT_BYTES = 1 << 29
"""Free bytes at the end of the heap that stay with the process: more than the tensors of a 512 px decode in bf16."""
MAPPED_BYTES = (1 << 30, 1 << 25)
"""Size from which an allocation has a mapping of its own, which is returned when it is freed. Older versions of glibc
refuse the first; the second is their maximum."""
OPERATOR_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Sets both thresholds for this process. Returns False where the environment sets them or malloc is not glibc's."""
    if sys.platform != "linux" or any(name in os.environ for name in OPERATOR_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in MAPPED_BYTES) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
