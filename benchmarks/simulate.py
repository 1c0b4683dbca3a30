"""How the scheduler behaves on many devices: the real Scheduler class on the cost model's clock. No device needed.

    python -m benchmarks.simulate --devices 1,8,64 --per-minute 10000

Requests arrive at random (Poisson), each goes to the device with the least outstanding seconds, and those that would
wait too long are refused, as EngineClient does. What a step costs is an assumption, printed with the result.
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.config import EngineConfig
from engine.costs import CostModel
from engine.request import Phase, Request
from engine.scheduler import Scheduler
from engine.types import GenerationParams
from server.bench import percentile

FLOOR_1600M = CostModel(encode=0.002, step=0.002, token=8.25e-3 / 2048, decode=0.002, pixel=0.0106 / 2**20)
"""Assumed, not measured: SANA 1.6B at 790 TFLOP/s, 8.25 ms a guided step and 10.6 ms a decode at 1024 px, plus 2 ms."""
MIX = ((512, 0.50), (1024, 0.30), (2048, 0.15), (4096, 0.05))
SERVED = EngineConfig()
"""Budgets and bounds as the server has them by default."""


@dataclass
class Device:
    """One Scheduler, stepped until a moment as EngineCore steps it."""

    scheduler: Scheduler
    now: float = 0.0
    busy_seconds: float = 0.0
    seconds_left: float = 0.0
    finished: list[tuple[Request, float]] = field(default_factory=list)

    def advance(self, costs: CostModel, until: float) -> None:
        while self.scheduler.busy and self.now < until:
            batch = self.scheduler.schedule()
            first = batch.requests[0]
            if batch.phase is Phase.ENCODE:
                seconds = costs.encode * len(batch.requests)
            elif batch.phase is Phase.DENOISE:
                seconds = costs.step_seconds(batch.tokens)
            else:
                seconds = costs.decode_seconds(first.pixels)
            self.now += seconds
            self.busy_seconds += seconds
            for request in batch.requests:
                request.step += batch.phase is Phase.DENOISE
            if batch.phase is Phase.DECODE:
                self.scheduler.finish(first)
                self.finished.append((first, self.now - first.arrived))
                self.seconds_left -= image_seconds(first, costs)
        if until < float("inf"):
            self.now = max(self.now, until)


def image_seconds(request: Request, costs: CostModel) -> float:
    return costs.image_seconds(request.tokens, request.params.num_inference_steps, request.pixels)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[Request]:
    """Poisson, `rate` per second, sizes from MIX, 20 guided steps."""
    draw, now = random.Random(seed), 0.0
    sides, weights = zip(*MIX, strict=True)
    while (now := now + draw.expovariate(rate)) < seconds:
        (side,) = draw.choices(sides, weights)
        params = GenerationParams("a cat", side, side, 20, 4.5, seed=0)
        yield Request("", 0, params, True, 2 * (side // 32) ** 2, now)


def simulate(devices: int, rate: float, seconds: float, costs: CostModel, seed: int = 0) -> tuple[list[Device], int]:
    """The devices when everything accepted is done, and how many requests were refused."""
    fleet = [Device(Scheduler(costs, SERVED.max_batch_tokens, SERVED.max_step_seconds)) for _ in range(devices)]
    refused = 0
    for request in arrivals(rate, seconds, seed):
        for each in fleet:
            each.advance(costs, request.arrived)
        device = min(fleet, key=lambda device: device.seconds_left)
        needed = image_seconds(request, costs)
        if device.seconds_left and device.seconds_left + needed > SERVED.max_queue_seconds:
            refused += 1
            continue
        device.scheduler.add(request)
        device.seconds_left += needed
    for each in fleet:
        each.advance(costs, float("inf"))
    return fleet, refused


def waits_of(fleet: list[Device], side: int) -> list[float]:
    """Seconds from arrival to picture of every finished image of that side."""
    return [seconds for device in fleet for request, seconds in device.finished if request.params.width == side]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate")
    parser.add_argument("--devices", default="1,8,64")
    parser.add_argument("--per-minute", type=float, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    print(f"{args.per_minute:g} requests a minute for {args.seconds:g} s, 20 guided steps, sizes {MIX}")
    print(f"assumed costs: {FLOOR_1600M}")
    print("devices  refused  images/s  busy   " + "".join(f"p50/p95 s at {side:4}  " for side, _ in MIX))
    for devices in map(int, args.devices.split(",")):
        fleet, refused = simulate(devices, args.per_minute / 60, args.seconds, FLOOR_1600M)
        finished = [entry for device in fleet for entry in device.finished]
        span = max(device.now for device in fleet)
        busy = sum(device.busy_seconds for device in fleet) / (devices * span)
        total = len(finished) + refused
        cells = []
        for side, _ in MIX:
            waits = waits_of(fleet, side) or [float("nan")]
            cells.append(f"{percentile(waits, 50):7.2f} /{percentile(waits, 95):7.2f}    ")
        print(f"{devices:7}  {refused / total:6.1%}  {len(finished) / span:8.1f}  {busy:5.1%}  " + "".join(cells))


if __name__ == "__main__":
    main()
