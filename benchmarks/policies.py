"""Batching policies on one trace: one at a time, same-shape batches, packed continuous batching, and its exact mode.

    python -m benchmarks.policies --requests 48 --concurrency 8

Closed loop: the number of outstanding requests is constant; each policy submits to the engine what it would batch.
"""

import queue
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from engine import EngineConfig, Event, Failed, Finished, GenerationParams, StepReport
from engine.messages import Submit
from engine.worker.core import EngineCore
from server.bench import percentile

from .arguments import make_parser, parse
from .serving import PROMPTS

Choose = Callable[[list[int], list[GenerationParams]], list[int]]
"""(outstanding requests, trace) to the requests that start now."""


def one_at_a_time(outstanding: list[int], trace: list[GenerationParams]) -> list[int]:
    return outstanding[:1]


def same_shape(outstanding: list[int], trace: list[GenerationParams]) -> list[int]:
    """The oldest, and all with the same size, steps and guidance: what other servers can batch."""

    def shape(i: int) -> tuple[object, ...]:
        params = trace[i]
        return params.width, params.height, params.num_inference_steps, params.guidance_scale

    return [i for i in outstanding if shape(i) == shape(outstanding[0])]


def packed(outstanding: list[int], trace: list[GenerationParams]) -> list[int]:
    return outstanding


POLICIES: dict[str, tuple[Choose, bool]] = {  # with whether requests may join a running batch
    "one at a time": (one_at_a_time, False),
    "same shape": (same_shape, False),
    "packed": (packed, True),
    "exact": (packed, True),  # on an engine with `exact`: every image in its own forward
}


def make_trace(requests: int, sides: list[int], steps: list[int], seed: int) -> list[GenerationParams]:
    """Requests with width, height and steps chosen uniformly, the same for the same seed."""
    rng = random.Random(seed)
    return [
        GenerationParams(rng.choice(PROMPTS), rng.choice(sides), rng.choice(sides), rng.choice(steps), 4.5, seed=i)
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
        while not core.busy or not events.empty():  # without a step to take, an encoder thread sends the last event
            event = events.get(timeout=60)
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                running.remove(int(event.request_id))
                latencies.append(time.perf_counter() - since[int(event.request_id)])
                break
    return time.perf_counter() - started, latencies


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("policies", __doc__)
    parser.add_argument("--model", default="demo", help="as in `sana serve` (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="as in `sana serve` (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=48, help="requests in the trace (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="outstanding requests (default: %(default)s)")
    px_help = "widths and heights in pixels, chosen uniformly (default: %(default)s)"
    parser.add_argument("--px", default="64,128,192,256", help=px_help)
    steps_help = "denoising steps, chosen uniformly (default: %(default)s)"
    parser.add_argument("--steps", default="10,14,20", help=steps_help)
    rounds_help = "rounds, in each of which every policy runs once; the median counts (default: %(default)s)"
    parser.add_argument("--rounds", type=int, default=3, help=rounds_help)
    args = parse(parser, argv, device="cpu", requests=3, concurrency=2, px="64", steps="1,2", rounds=1)
    events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
    plain = EngineCore(EngineConfig(model=args.model, device=args.device), events.put)
    exact = EngineCore(EngineConfig(model=args.model, device=args.device, exact=True), events.put)
    sides, steps = ([int(part) for part in text.split(",")] for text in (args.px, args.steps))
    trace = make_trace(args.requests, sides, steps, seed=0)
    rounds: dict[str, list[tuple[float, list[float]]]] = {policy: [] for policy in POLICIES}
    for _ in range(args.rounds):
        for policy, results in rounds.items():
            core = exact if policy == "exact" else plain
            results.append(replay(core, events, trace, args.concurrency, policy))
    plain.close()
    exact.close()
    print(f"{args.requests} requests, sides {args.px} px, steps {args.steps}, {args.concurrency} outstanding")
    print(f"{'':16}{'images/s':>10}{'p50 s':>9}{'p95 s':>9}   images/s divided by one at a time, by round")
    for policy, results in rounds.items():
        seconds, latencies = sorted(results, key=lambda result: result[0])[len(results) // 2]
        ratios = [first[0] / mine[0] for first, mine in zip(rounds["one at a time"], results, strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        p50, p95 = percentile(latencies, 50), percentile(latencies, 95)
        print(f"{policy:16}{len(trace) / seconds:10.2f}{p50:9.2f}{p95:9.2f}   {shown}")


if __name__ == "__main__":
    main()
