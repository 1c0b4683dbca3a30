"""Captures calls as CUDA graphs: one launch replays several hundred. Bounded in time and in memory."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

FREE_BYTES = 2 << 30
"""Memory left to what runs without a graph: large steps, large images, long prompts."""


class GraphRecorder:
    """Captures one kind of calls, as many as its time and the device's memory allow.

    The graphs share one memory pool, which is safe because calls of one kind replay one after the other.

    Args:
        device: device of the calls. On the CPU nothing is captured and a graph is the call itself.
        seconds: time budget, from now on; no capture begins after it.
        stream: stream to capture in (default: a new one). Libraries keep a workspace per stream, so calls that replay
            at the same time as others need a stream in which those were not captured.
    """

    def __init__(self, device: torch.device, seconds: float, stream: torch.cuda.Stream | None = None) -> None:
        self.device = device
        self.ended = False
        self._deadline = time.monotonic() + seconds
        on_cuda = device.type == "cuda"
        self._stream = stream or (torch.cuda.Stream(device) if on_cuda else None)
        self._pool = torch.cuda.graph_pool_handle() if on_cuda else None

    @torch.inference_mode()
    def capture(self, call: Callable[[], None]) -> Callable[[], None] | None:
        """Returns a function that replays `call` on the tensors it works on now.

        Returns None, now and from then on, when time or memory has run out or a call could not be captured.
        """
        self.ended = self.ended or time.monotonic() > self._deadline or not has_room(self.device)
        if self.ended:
            return None
        try:
            return capture_graph(call, self.device, self._stream, self._pool)
        except RuntimeError:
            log.exception("capturing a CUDA graph failed: this call and smaller ones of its kind run without, slower")
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # raises here if the failure has also lost the device
            self.ended = True
            return None


def capture_graph(
    call: Callable[[], None], device: torch.device, stream: torch.cuda.Stream | None, pool: Any
) -> Callable[[], None]:
    """Captures `call` in `stream` and returns the function that replays it; without a stream, the call itself."""
    if stream is None:
        return call
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call()  # compiles kernels and allocates workspaces, which must not happen during a capture
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # The outer context restores the current stream if the capture fails at its end; torch's own does not.
    with (
        torch.cuda.stream(torch.cuda.current_stream(device)),
        torch.cuda.graph(graph, pool=pool, stream=stream),
    ):
        call()
    return graph.replay


def has_room(device: torch.device) -> bool:
    """Whether the device has more free memory than must be left."""
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > FREE_BYTES
