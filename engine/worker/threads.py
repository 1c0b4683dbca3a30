"""The number of threads that torch computes on: no more than the CPUs that the host and control groups allow."""

import os

import torch

from ..host import available_cpus, thread_count


def limit_threads() -> str:
    """Lowers torch's number of threads to the CPUs available, and returns a sentence that says why.

    OMP_NUM_THREADS overrides it. Torch's own choice is at most one thread per core: hyperthreads gain nothing.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return f"{torch.get_num_threads()} CPU threads (OMP_NUM_THREADS)"
    cpus = available_cpus()
    threads = min(torch.get_num_threads(), thread_count(cpus))
    torch.set_num_threads(threads)
    return f"{threads} CPU threads ({cpus.source} allows {cpus.count:g} CPUs)"
