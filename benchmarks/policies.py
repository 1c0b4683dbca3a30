"""Ways to batch, on one trace: one at a time, same-shape batches, packed continuous batching, and its exact mode.

    python -m benchmarks.policies --requests 48 --concurrency 8

Closed loop: so many requests are outstanding at all times; each policy hands the engine what it would put together.
"""

import argparse
import queue
import random
import time
from collections import deque
from collections.abc import Callable

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.messages import Submit
from engine.worker.core import EngineCore
from server.bench import percentile

from .serving import PROMPTS

Choose = Callable[[list[int], list[GenerationParams]], list[int]]  # outstanding requests -> what to begin now


def one_at_a_time(outstanding: list[int], trace: list[GenerationParams]) -> list[int]:
    return outstanding[:1]


def same_shape(outstanding: list[int], trace: list[GenerationParams]) -> list[int]:
    """The oldest, and all that agree with it in size, steps and guidance: what other servers can batch."""

    def shape(i: int) -> tuple[object, ...]:
        params = trace[i]
        return params.width, params.height, params.num_inference_steps, params.guidance_scale

    return [i for i in outstanding if shape(i) == shape(outstanding[0])]


def packed(outstanding: list[int], trace: list[GenerationParams]) -> list[int]:
    return outstanding


POLICIES: dict[str, tuple[Choose, bool]] = {  # and whether requests may join while others run
    "one at a time": (one_at_a_time, False),
    "same shape": (same_shape, False),
    "packed": (packed, True),
    "exact": (packed, True),  # by an engine of its own: every image in a forward of its own
}


def make_trace(requests: int, sides: list[int], steps: list[int], seed: int) -> list[GenerationParams]:
    draw = random.Random(seed)
    return [
        GenerationParams(draw.choice(PROMPTS), draw.choice(sides), draw.choice(sides), draw.choice(steps), 4.5, seed=i)
        for i in range(requests)
    ]


def replay(
    core: EngineCore,
    events: "queue.SimpleQueue[Event | StepReport]",
    trace: list[GenerationParams],
    concurrency: int,
    policy: str,
) -> tuple[float, list[float]]:
    """Seconds for the whole trace, and the latency of each request from the moment it was outstanding."""
    choose, joins = POLICIES[policy]
    waiting, outstanding, running = deque(range(len(trace))), list[int](), set[int]()
    since: dict[int, float] = {}
    latencies: list[float] = []
    started = time.perf_counter()
    while waiting or outstanding or running:
        while waiting and len(outstanding) + len(running) < concurrency:
            outstanding.append(waiting.popleft())
            since[outstanding[-1]] = time.perf_counter()
        if outstanding and (joins or not running):
            for i in choose(outstanding, trace):
                outstanding.remove(i)
                running.add(i)
                core.submit(Submit(str(i), trace[i]))
        if core.busy:
            core.step()
        while not core.busy or not events.empty():  # nothing to step: an encoder thread has the last word
            event = events.get(timeout=60)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                running.remove(int(event.request_id))
                latencies.append(time.perf_counter() - since[int(event.request_id)])
                break
    return time.perf_counter() - started, latencies


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__)
    parser.add_argument("--model", default="demo", help="(%(default)s)")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    parser.add_argument("--requests", type=int, default=48, help="(%(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--sides", default="64,128,192,256", help="widths and heights, drawn evenly (%(default)s)")
    parser.add_argument("--steps", default="10,14,20", help="drawn evenly (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="the policies take turns; the median counts (%(default)s)"
    )
    args = parser.parse_args()
    events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
    plain = EngineCore(EngineConfig(model=args.model, device=args.device), events.put)
    exact = EngineCore(EngineConfig(model=args.model, device=args.device, exact=True), events.put)
    sides, steps = ([int(part) for part in text.split(",")] for text in (args.sides, args.steps))
    trace = make_trace(args.requests, sides, steps, seed=0)
    rounds: dict[str, list[tuple[float, list[float]]]] = {policy: [] for policy in POLICIES}
    for _ in range(args.rounds):
        for policy, results in rounds.items():
            core = exact if policy == "exact" else plain
            results.append(replay(core, events, trace, args.concurrency, policy))
    plain.close()
    exact.close()
    print(f"{args.requests} requests, sides {args.sides}, steps {args.steps}, {args.concurrency} outstanding")
    print(f"{'':16}{'images/s':>10}{'p50 s':>9}{'p95 s':>9}   images/s against one at a time, round by round")
    for policy, results in rounds.items():
        seconds, latencies = sorted(results, key=lambda result: result[0])[len(results) // 2]
        ratios = [first[0] / mine[0] for first, mine in zip(rounds["one at a time"], results, strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        p50, p95 = percentile(latencies, 50), percentile(latencies, 95)
        print(f"{policy:16}{len(trace) / seconds:10.2f}{p50:9.2f}{p95:9.2f}   {shown}")


if __name__ == "__main__":
    main()
