"""The number of threads that torch computes on: within what the host allows, the one that is fastest for the model."""

import os
from collections.abc import Callable

import torch

from ..host import available_cpus, thread_count

WORTHWHILE = 1.1
"""Factor by which fewer threads must be faster than more: measurements vary, and a server that is starting uses a core
beside them, which slows more threads down. Waiting threads sleep, so more of them cost other programs little."""


def limit_threads(processes: int = 1) -> str:
    """Lowers torch's number of threads to the CPUs available, and returns a sentence that says why.

    OMP_NUM_THREADS overrides it. Torch's own choice is at most one thread per core: hyperthreads gain nothing.

    Args:
        processes: engine processes that compute on the CPU and share it.
    """
    if is_set_by_user():
        return f"{torch.get_num_threads()} CPU threads (OMP_NUM_THREADS)"
    cpus = available_cpus()
    threads = max(1, min(torch.get_num_threads(), thread_count(cpus)) // processes)
    torch.set_num_threads(threads)
    shared = f", shared by {processes} engine processes" if processes > 1 else ""
    return f"{threads} CPU threads ({cpus.source} allows {cpus.count:g} CPUs{shared})"


def is_set_by_user() -> bool:
    """Whether OMP_NUM_THREADS says how many threads to use."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def tune_threads(image_seconds: Callable[[], float]) -> str:
    """Lowers torch's number of threads to the fastest, and returns a sentence with the measurements.

    A small image is faster on one thread: the others would be woken for every operation.

    Args:
        image_seconds: measures an image with the present number of threads.
    """

    def measure(threads: int) -> float:
        torch.set_num_threads(threads)
        return image_seconds()

    seconds = measure_threads(torch.get_num_threads(), measure)
    threads = most_fast(seconds)
    torch.set_num_threads(threads)
    measured = ", ".join(f"{1000 * seconds[n]:.0f} ms on {n}" for n in sorted(seconds))
    return f"{threads} CPU threads (an image takes {measured}; fewer must be {WORTHWHILE} times as fast)"


def measure_threads(limit: int, measure: Callable[[int], float]) -> dict[int, float]:
    """Seconds of an image by number of threads: `limit`, its half and so on, until fewer are slower."""
    seconds: dict[int, float] = {}
    threads = limit
    while threads and (not seconds or min(seconds.values()) * WORTHWHILE >= seconds[min(seconds)]):
        seconds[threads] = measure(threads)
        threads //= 2
    return seconds


def most_fast(seconds: dict[int, float]) -> int:
    """The largest number of threads that is within `WORTHWHILE` of the fastest."""
    fastest = min(seconds.values())
    return max(threads for threads, taken in seconds.items() if taken <= fastest * WORTHWHILE)
