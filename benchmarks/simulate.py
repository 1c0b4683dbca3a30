"""How the scheduler behaves on many devices: the real Scheduler class on the cost model's clock. No device needed.

    python -m benchmarks.simulate --devices 1,8,64 --per-minute 10000
    python -m benchmarks.simulate --workload demo --devices 1 --times 3 --seconds 420

Requests arrive at random (Poisson), each goes to the device with the least outstanding seconds, and is admitted or
refused there, as EngineClient does. What a step costs is an assumption, printed with the result.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.admission import admit
from engine.config import EngineConfig
from engine.costs import CostModel
from engine.errors import QueueFull
from engine.request import Request
from engine.types import GenerationParams, Progress
from engine.worker.image_task import ImageTask, Phase
from engine.worker.scheduler import Scheduler
from server.bench import percentile

STEPS = 20
SERVED = EngineConfig()
"""Budgets and bounds as the server has them by default."""


@dataclass(frozen=True)
class Workload:
    """Sides in pixels with their frequencies, and what their steps cost."""

    mix: tuple[tuple[int, float], ...]
    costs: CostModel

    @property
    def mean_seconds(self) -> float:
        return sum(share * image_seconds(image(side), self.costs) for side, share in self.mix)

    def arrivals(self, rate: float, seconds: float, seed: int) -> Iterator[ImageTask]:
        """Poisson, `rate` per second."""
        draw, now = random.Random(seed), 0.0
        sides, weights = zip(*self.mix, strict=True)
        while (now := now + draw.expovariate(rate)) < seconds:
            (side,) = draw.choices(sides, weights)
            yield image(side, now)


def image(side: int, arrived: float = 0.0) -> ImageTask:
    """Guided."""
    return ImageTask(
        "", 0, GenerationParams("a cat", side, side, STEPS, 4.5, seed=0), True, 2 * (side // 32) ** 2, arrived
    )


def image_seconds(task: ImageTask, costs: CostModel) -> float:
    return costs.image_seconds(task.tokens, task.params.num_inference_steps, task.pixels)


WORKLOADS = {
    # Assumed, not measured: SANA 1.6B at 790 TFLOP/s, 8.25 ms a guided step and 10.6 ms a decode at 1024 px, plus 2 ms.
    "1.6B": Workload(
        ((512, 0.50), (1024, 0.30), (2048, 0.15), (4096, 0.05)),
        CostModel(encode=0.002, step=0.002, token=8.25e-3 / 2048, decode=0.002, pixel=0.0106 / 2**20),
    ),
    # That of benchmarks.soak, and about what its machine takes: 0.43 s for a picture of 256 px.
    "demo": Workload(
        ((128, 0.25), (256, 0.50), (512, 0.25)),
        CostModel(encode=0.006, step=0.004, token=1.3e-4, decode=0.005, pixel=2.5e-7),
    ),
}


@dataclass
class Device:
    """One Scheduler, stepped until a moment as EngineCore steps it, and the tickets of its Replica."""

    costs: CostModel
    scheduler: Scheduler
    now: float = 0.0
    busy_seconds: float = 0.0
    seconds_left: float = 0.0
    requests: dict[ImageTask, Request] = field(default_factory=dict)
    finished: list[tuple[ImageTask, float]] = field(default_factory=list)

    def add(self, task: ImageTask) -> None:
        """Raises QueueFull."""
        seconds = image_seconds(task, self.costs)
        request = Request("", task.params, seconds, task.tokens, task.arrived, deadline=None)
        admit(request, self.requests.values(), SERVED.max_queue_seconds)
        self.requests[task] = request
        self.seconds_left += seconds
        self.scheduler.add(task)

    def advance(self, until: float) -> None:
        while self.scheduler.busy and self.now < until:
            batch = self.scheduler.schedule(self.now)
            first = batch.tasks[0]
            if batch.phase is Phase.ENCODE:
                seconds = self.costs.encode * len(batch.tasks)
            elif batch.phase is Phase.DENOISE:
                seconds = self.costs.step_seconds(batch.tokens)
                for task in batch.tasks:
                    self.progress(task)
            else:
                seconds = self.costs.decode_seconds(first.pixels)
                self.scheduler.finish(first)
                del self.requests[first]
                self.finished.append((first, self.now + seconds - first.arrived))
            self.now += seconds
            self.busy_seconds += seconds
        if until < float("inf"):
            self.now = max(self.now, until)

    def progress(self, task: ImageTask) -> None:
        task.step += 1
        request = self.requests[task]
        request.receive(Progress("", 0, task.step, STEPS))
        self.seconds_left -= request.seconds / STEPS


def simulate(devices: int, rate: float, seconds: float, workload: Workload, seed: int = 0) -> tuple[list[Device], int]:
    """The devices when everything accepted is done, and how many requests were refused."""
    bounds = (SERVED.max_batch_tokens, SERVED.max_step_seconds, SERVED.max_queue_seconds)
    fleet = [Device(workload.costs, Scheduler(workload.costs, *bounds)) for _ in range(devices)]
    refused = 0
    for task in workload.arrivals(rate, seconds, seed):
        for each in fleet:
            each.advance(task.arrived)
        try:
            min(fleet, key=lambda device: device.seconds_left).add(task)
        except QueueFull:
            refused += 1
    for each in fleet:
        each.advance(float("inf"))
    return fleet, refused


def waits_of(fleet: list[Device], side: int) -> list[float]:
    """Seconds from arrival to picture of every finished image of that side."""
    return [seconds for device in fleet for task, seconds in device.finished if task.params.width == side]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate")
    parser.add_argument("--devices", default="1,8,64")
    parser.add_argument("--workload", choices=WORKLOADS, default="1.6B")
    parser.add_argument("--per-minute", type=float, default=10_000)
    parser.add_argument("--times", type=float, help="what the devices could do one by one, instead of --per-minute")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    workload = WORKLOADS[args.workload]
    print(f"{args.seconds:g} s of arrivals, {STEPS} guided steps, sizes {workload.mix}")
    print(f"assumed costs: {workload.costs}")
    print(
        "devices  arriving/min  refused  images/s  busy   "
        + "".join(f"p50/p95/max s at {side:4}   " for side, _ in workload.mix)
    )
    for devices in map(int, args.devices.split(",")):
        rate = args.per_minute / 60 if args.times is None else args.times * devices / workload.mean_seconds
        fleet, refused = simulate(devices, rate, args.seconds, workload)
        finished = [entry for device in fleet for entry in device.finished]
        span = max(device.now for device in fleet)
        busy = sum(device.busy_seconds for device in fleet) / (devices * span)
        total = len(finished) + refused
        cells = []
        for side, _ in workload.mix:
            waits = waits_of(fleet, side) or [float("nan")]
            cells.append(f"{percentile(waits, 50):6.2f} /{percentile(waits, 95):6.2f} /{max(waits):6.2f}  ")
        print(
            f"{devices:7}  {60 * rate:12.0f}  {refused / total:6.1%}  {len(finished) / span:8.1f}  {busy:5.1%}  "
            + "".join(cells)
        )


if __name__ == "__main__":
    main()
