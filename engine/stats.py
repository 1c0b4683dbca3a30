"""What operators are told of the engine: a report after every step, and a snapshot at any time. Frozen, picklable."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Forwards:
    """How often the networks ran in a step.

    Args:
        replayed: by a CUDA graph.
        launched: kernel by kernel.
        graph_tokens: rows of the graph of a denoise step, what fills it up included.
    """

    replayed: int = 0
    launched: int = 0
    graph_tokens: int = 0


@dataclass(frozen=True)
class StepReport:
    """One step of one engine process, sent when it is done.

    Args:
        worker: index of the process, in the order of the devices.
        phase: encode, denoise or decode.
        seconds: the step's own time on the device.
        tokens: rows of the transformer's forward, both branches of guidance counted; 0 outside of denoise.
        token_budget: tokens a step of several images may have.
        pixels: decoded; 0 outside of decode.
        images, requests: how many took part.
        prompt_cache_hits, prompt_cache_misses: of this process, since it started.
        memory_bytes: held on the device; for the CPU, resident in the process.
        forwards: of the networks; none where all prompts were found encoded.
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
    """The engine at one moment; the counts are totals since the client was started.

    Args:
        queue_seconds: predicted seconds until the work accepted so far is done, by the busiest worker.
        queued_images: accepted, first step not taken.
        running_images: on the device, not handed out.
        rejected: refused requests by reason: queue_full, deadline, invalid, unavailable.
        cancelled: requests given up by their caller or ended by their timeout.
        retries: requests sent again because an engine process ended under them.
        restarts: of engine processes.
        wasted_seconds: device time spent on images that nobody received.
        prompt_cache_hits, prompt_cache_misses: of all processes.
        memory_bytes: per worker, as in its last report.
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
