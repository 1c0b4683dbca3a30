"""glibc's allocator in the engine process: freed memory stays for the next tensors.

By default glibc adapts two thresholds to the blocks it has seen, and at the demo's sizes they settle where every decode
of a 512 px image grows the heap and returns it: resident memory swings, and each page is faulted in and cleared again.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_BYTES = 2**25
"""Smallest block with a mapping of its own, returned when freed: the maximum, to which larger models adapt anyway."""
TRIM_BYTES = 2**26
"""Free memory at the end of the heap above which it is returned: what glibc derives from that maximum."""
OPERATOR_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Sets both thresholds for this process, unless the environment does. No effect without glibc."""
    if sys.platform != "linux" or any(name in os.environ for name in OPERATOR_SETTINGS):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
