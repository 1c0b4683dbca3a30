"""Calls recorded as CUDA graphs: one launch replays what took hundreds. Bounded in time and in memory."""

import logging
import time
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

WARM_UP_SECONDS = 60.0
"""For all graphs of an engine."""
FREE_BYTES = 2 << 30
"""Left to what runs without a graph: large steps, large pictures, long prompts."""


class Recorder:
    """Records calls that replay one after the other, in one stream: they share their memory.

    Args:
        until: by `time.monotonic`; nothing is recorded later.
        stream: that the calls are recorded in; one of their own where there is none. Libraries keep a workspace per
            stream, so calls that replay beside others need a stream that the others were not recorded in.
    """

    def __init__(self, device: torch.device, until: float, stream: torch.cuda.Stream | None = None) -> None:
        self.device = device
        self.until = until
        self.ended = False
        on_cuda = device.type == "cuda"
        self._stream = stream or (torch.cuda.Stream(device) if on_cuda else None)
        self._pool = torch.cuda.graph_pool_handle() if on_cuda else None

    @torch.inference_mode()
    def record(self, call: Callable[[], None]) -> Callable[[], None] | None:
        """What replays `call` on the tensors it has now; on the CPU the call itself.

        None when time or memory are used up or the call cannot be recorded, and from then on.
        """
        self.ended = self.ended or time.monotonic() > self.until or not has_room(self.device)
        if self.ended:
            return None
        try:
            return self._capture(call)
        except RuntimeError:
            log.exception("a CUDA graph could not be captured: what it is for, and what is smaller, runs slower")
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # raises where the device is lost with it
            self.ended = True
            return None

    def _capture(self, call: Callable[[], None]) -> Callable[[], None]:
        if self._stream is None:
            return call
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            call()  # compiles the kernels and makes the workspaces: neither may happen while a graph is captured
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        # The outer context leaves the stream again where a capture fails at its end, which torch's own does not.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self.device)),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
        ):
            call()
        return graph.replay


def has_room(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > FREE_BYTES
