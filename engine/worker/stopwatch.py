"""How long work takes on a device, without waiting for it: the host goes on and asks when it needs to know."""

import time

import torch


class Stopwatch:
    """Runs from its making to `stop`, in the order in which the device works."""

    def __init__(self, device: torch.device) -> None:
        self._started = Mark(device)
        self._stopped = self._started
        self._device = device

    def stop(self) -> None:
        self._stopped = Mark(self._device)

    def seconds(self) -> float:
        """Waits until the device is there."""
        return self._stopped.since(self._started)


class Mark:
    """A place in the device's queue; on the CPU, which queues nothing, a time."""

    def __init__(self, device: torch.device) -> None:
        self._time = time.monotonic()
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))

    def since(self, earlier: "Mark") -> float:
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        self._event.synchronize()
        return earlier._event.elapsed_time(self._event) / 1000
