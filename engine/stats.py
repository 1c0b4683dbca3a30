"""Figures for operators: a report after every step, and a snapshot at any time. Frozen, picklable."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Forwards:
    """Forwards of the networks in a step.

    Args:
        replayed: forwards replayed by a CUDA graph.
        launched: forwards launched kernel by kernel.
        graph_tokens: tokens of the CUDA graph of a denoise step, padding included.
    """

    replayed: int = 0
    launched: int = 0
    graph_tokens: int = 0


@dataclass(frozen=True)
class StepReport:
    """Report of one finished step of one engine process.

    Args:
        worker: index of the process, in the order of the devices.
        phase: encode, encode_image, denoise or decode.
        seconds: seconds of the step on the device.
        tokens: tokens of the transformer's forward, counting both branches of guidance; 0 outside of denoise.
        token_budget: maximum tokens of a step of several images.
        pixels: encoded or decoded pixels; 0 in other phases.
        images, requests: numbers of images and requests in the step.
        prompt_cache_hits, prompt_cache_misses: totals of this process since it started.
        memory_bytes: bytes held on the device; for the CPU, bytes resident in the process.
        forwards: forwards of the networks; none if all prompts were in the cache.
    """

    worker: int
    phase: str
    seconds: float
    tokens: int
    token_budget: int
    pixels: int
    images: int
    requests: int
    prompt_cache_hits: int
    prompt_cache_misses: int
    memory_bytes: int
    forwards: Forwards = Forwards()


@dataclass(frozen=True)
class EngineStats:
    """Snapshot of the engine; counts are totals since the client started.

    Args:
        queue_seconds: predicted seconds until the busiest device has finished the work accepted so far.
        queued_images: accepted images that have not started.
        running_images: images that have started and are not finished.
        rejected: refused requests by reason: queue_full, deadline, invalid, unavailable.
        cancelled: requests cancelled by their caller or ended by their timeout.
        retries: requests sent again because their engine process ended.
        restarts: engine processes that were replaced.
        wasted_seconds: device seconds spent on images that were not delivered.
        prompt_cache_hits, prompt_cache_misses: totals of the present engine processes.
        memory_bytes: bytes per worker, from its last report.
        memory_limit_bytes: bytes of the device of each worker; 0 until it has loaded.
    """

    queue_seconds: float
    queued_images: int
    running_images: int
    rejected: Mapping[str, int]
    cancelled: int
    retries: int
    restarts: int
    wasted_seconds: float
    prompt_cache_hits: int
    prompt_cache_misses: int
    memory_bytes: tuple[int, ...]
    memory_limit_bytes: tuple[int, ...]
