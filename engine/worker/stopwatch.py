"""Timing of work on a device without a wait: the host launches more and reads the result later."""

import time

import torch


class Stopwatch:
    """Device time between the construction and `stop`."""

    def __init__(self, device: torch.device) -> None:
        self._started = DeviceTime(device)
        self._stopped = self._started
        self._device = device

    def stop(self) -> None:
        self._stopped = DeviceTime(self._device)

    def seconds(self) -> float:
        """Waits until the device has reached `stop`, and returns the seconds."""
        return self._stopped.since(self._started)


class DeviceTime:
    """Time at which a device finishes the work launched so far: a CUDA event, or the present time on the CPU."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "mps":
            torch.mps.synchronize()
        self._time = time.monotonic()
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))

    def since(self, earlier: "DeviceTime") -> float:
        """Seconds after `earlier`."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        self._event.synchronize()
        return earlier._event.elapsed_time(self._event) / 1000
