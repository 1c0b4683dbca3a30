"""Scheduling on any number of simulated devices: the real Scheduler on the cost model's clock, without a device.

    python -m benchmarks.simulate --devices 1,8,64 --per-minute 10000
    python -m benchmarks.simulate --workload demo --devices 1 --times 3 --seconds 420

Requests arrive as a Poisson process. Each goes to the device with the fewest outstanding seconds and is admitted or
refused there, as EngineClient does. The costs of a step are assumptions, printed with the result.
"""

import random
from collections.abc import Iterator, Sequence
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

from .arguments import make_parser, parse

STEPS = 20
CONFIG = EngineConfig()
"""The server's default budgets and bounds."""


@dataclass(frozen=True)
class Workload:
    """Sides in pixels with their shares of the requests, and the cost model of the device."""

    mix: tuple[tuple[int, float], ...]
    costs: CostModel

    @property
    def mean_seconds(self) -> float:
        return sum(share * image_seconds(make_task(side), self.costs) for side, share in self.mix)

    def arrivals(self, rate: float, seconds: float, seed: int) -> Iterator[ImageTask]:
        """Tasks of a Poisson process of `rate` per second."""
        rng, now = random.Random(seed), 0.0
        sides, weights = zip(*self.mix, strict=True)
        while (now := now + rng.expovariate(rate)) < seconds:
            (side,) = rng.choices(sides, weights)
            yield make_task(side, now)


def make_task(side: int, arrived: float = 0.0) -> ImageTask:
    """One square guided image."""
    params = GenerationParams("a cat", side, side, STEPS, 4.5, seed=0)
    return ImageTask("", 0, params, (side, side), True, 2 * (side // 32) ** 2, arrived)


def image_seconds(task: ImageTask, costs: CostModel) -> float:
    """Seconds of device time of an image alone."""
    return costs.image_seconds(task.tokens, task.params.num_inference_steps, task.pixels)


WORKLOADS = {
    # Assumed, not measured: SANA 1.6B at 790 TFLOP/s, 8.25 ms a guided step and 10.6 ms a decode at 1024 px, plus 2 ms.
    "1.6B": Workload(
        ((512, 0.50), (1024, 0.30), (2048, 0.15), (4096, 0.05)),
        CostModel(encode=0.002, step=0.002, token=8.25e-3 / 2048, decode=0.002, pixel=0.0106 / 2**20),
    ),
    # The mix of benchmarks.soak, and about the costs of its machine: 0.43 s for an image of 256 px.
    "demo": Workload(
        ((128, 0.25), (256, 0.50), (512, 0.25)),
        CostModel(encode=0.006, step=0.004, token=1.3e-4, decode=0.005, pixel=2.5e-7),
    ),
}


@dataclass
class Device:
    """One Scheduler, stepped on a simulated clock as EngineCore steps it, and the requests of its Replica."""

    costs: CostModel
    scheduler: Scheduler
    now: float = 0.0
    busy_seconds: float = 0.0
    seconds_left: float = 0.0
    requests: dict[ImageTask, Request] = field(default_factory=dict)
    finished: list[tuple[ImageTask, float]] = field(default_factory=list)

    def add(self, task: ImageTask) -> None:
        """Admits a task or raises QueueFull."""
        seconds = image_seconds(task, self.costs)
        request = Request("", task.params, seconds, task.tokens, task.arrived, deadline=None)
        admit(request, self.requests.values(), CONFIG.max_queue_seconds)
        self.requests[task] = request
        self.seconds_left += seconds
        self.scheduler.add(task)

    def advance(self, until: float) -> None:
        while self.scheduler.busy and self.now < until:
            batch = self.scheduler.schedule(self.now)
            first = batch.tasks[0]
            if batch.phase is Phase.ENCODE:
                seconds = self.costs.encode_seconds(len(batch.tasks))
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
    """Returns the devices after all accepted work, and the number of refused requests."""
    bounds = (CONFIG.max_batch_tokens, CONFIG.max_step_seconds, CONFIG.max_queue_seconds)
    fleet = [Device(workload.costs, Scheduler(workload.costs, *bounds)) for _ in range(devices)]
    refused = 0
    for task in workload.arrivals(rate, seconds, seed):
        for device in fleet:
            device.advance(task.arrived)
        try:
            min(fleet, key=lambda device: device.seconds_left).add(task)
        except QueueFull:
            refused += 1
    for device in fleet:
        device.advance(float("inf"))
    return fleet, refused


def latencies_of(fleet: list[Device], side: int) -> list[float]:
    """Seconds from arrival to the finished image, for every image of that side."""
    return [seconds for device in fleet for task, seconds in device.finished if task.params.width == side]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("simulate", __doc__)
    parser.add_argument("--devices", default="1,8,64", help="numbers of devices to simulate (default: %(default)s)")
    parser.add_argument("--workload", choices=WORKLOADS, default="1.6B", help="sizes and costs (default: %(default)s)")
    per_minute_help = "requests per minute of the whole fleet (default: %(default)s)"
    parser.add_argument("--per-minute", type=float, default=10_000, help=per_minute_help)
    times_help = "arrival rate as a multiple of what the devices do one image at a time, instead of --per-minute"
    parser.add_argument("--times", type=float, help=times_help)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the arrivals (default: %(default)s)")
    args = parse(parser, argv, devices="1,2", seconds=2.0)
    workload = WORKLOADS[args.workload]
    print(f"{args.seconds:g} s of arrivals, {STEPS} guided steps, (side in px, share of requests): {workload.mix}")
    print(f"assumed costs in seconds: {workload.costs}")
    print(
        "devices  requests/min  refused  images/s   busy   "
        + "".join(f"p50/p95/max s at {side:4} px " for side, _ in workload.mix)
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
            latencies = latencies_of(fleet, side) or [float("nan")]
            p50, p95 = percentile(latencies, 50), percentile(latencies, 95)
            cells.append(f"{p50:6.2f} /{p95:6.2f} /{max(latencies):6.2f}     ")
        print(
            f"{devices:7}  {60 * rate:12.0f}  {refused / total:6.1%}  {len(finished) / span:8.1f}  {busy:5.1%}  "
            + "".join(cells)
        )


if __name__ == "__main__":
    main()
