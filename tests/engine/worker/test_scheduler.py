"""Scheduling policy without tensors, on the clock of the cost model: thousands of traces in seconds."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.costs import CostModel
from engine.fairness import MAX_SHARE, MIN_SHARE, PATIENCE
from engine.types import GenerationParams, Priority
from engine.worker.image_task import Batch, ImageTask, Phase
from engine.worker.scheduler import MAX_SLOWDOWN, Scheduler

COSTS = CostModel(encode=0.01, step=0.02, token=0.0001, decode=0.01, pixel=1e-7)
BUDGET = 800
SMALL, LARGE = 100, 3000
QUEUE = 60.0


def task(name: str, tokens: int = SMALL, steps: int = 3, arrived: float = 0.0, **options: object) -> ImageTask:
    deadline = options.pop("deadline", None)
    params = GenerationParams("a cat", 32, 32, steps, 4.5, 0, **options)  # type: ignore[arg-type]
    return ImageTask(name, 0, params, (32, 32), True, tokens, arrived, deadline)  # type: ignore[arg-type]


@dataclass
class Engine:
    """Runs batches as EngineCore does, on the cost model's clock."""

    scheduler: Scheduler = field(default_factory=lambda: Scheduler(COSTS, BUDGET, 0.1, QUEUE))
    now: float = 0.0
    started: list[ImageTask] = field(default_factory=list)
    finished: list[ImageTask] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def step(self) -> Batch:
        batch = self.scheduler.schedule(self.now)
        self.batches.append(batch)
        if batch.phase is Phase.ENCODE:
            self.now += COSTS.encode * len(batch.tasks)
            self.started += batch.tasks
        elif batch.phase is Phase.DENOISE:
            self.now += COSTS.step_seconds(batch.tokens)
            for member in batch.tasks:
                assert not member.denoise_done
                member.step += 1
        else:
            (done,) = batch.tasks
            self.now += COSTS.decode_seconds(done.pixels)
            if done.denoise_done:
                self.scheduler.finish(done)
                self.finished.append(done)
            else:
                done.previews += 1
        return batch

    def drain(self) -> None:
        while self.scheduler.busy:
            self.step()


arrival = st.tuples(
    st.floats(0, 3),
    st.sampled_from([10, 50, SMALL, 400, 799, LARGE]),
    st.integers(1, 6),
    st.sampled_from(["high", "normal", "low"]),
    st.sampled_from(["", "a", "b"]),
    st.none() | st.floats(0.1, 20),
    st.integers(0, 3),
    st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(arrival, min_size=1, max_size=25), st.booleans())
def test_random_traces_finish_within_budget(trace: list[tuple], exact: bool) -> None:  # type: ignore[type-arg]
    """Images of any kind arrive at any time; some are cancelled, waiting or running."""
    engine = Engine(Scheduler(COSTS, BUDGET, 0.1, QUEUE, exact))
    pending, cancellable = [], set()
    for i, (at, tokens, steps, priority, tenant, timeout, previews, cancelled) in enumerate(sorted(trace, key=repr)):
        deadline = None if timeout is None else at + timeout
        options = dict(priority=priority, tenant=tenant, deadline=deadline, partial_images=previews)
        pending.append(task(str(i), tokens, steps, at, **options))
        if cancelled and i % 3 == 0:
            cancellable.add(str(i))
    pending.sort(key=lambda item: item.arrived)
    arrived = list(pending)
    removed: list[ImageTask] = []
    while pending or engine.scheduler.busy:
        while pending and (pending[0].arrived <= engine.now or not engine.scheduler.busy):
            engine.now = max(engine.now, pending[0].arrived)
            engine.scheduler.add(pending.pop(0))
        if len(engine.batches) % 4 == 3 and cancellable:
            removed += engine.scheduler.remove(cancellable.pop())
        if engine.scheduler.busy:
            engine.step()
    assert len(set(engine.finished)) == len(engine.finished)
    assert set(engine.finished) | set(removed) == set(arrived)
    assert not set(engine.finished) & set(removed)
    for batch in engine.batches:
        assert batch.tasks
        if batch.phase is Phase.DENOISE and len(batch.tasks) > 1:
            assert batch.tokens <= (0 if exact else BUDGET)
    for done in engine.finished:
        assert done.step == done.params.num_inference_steps
        assert done.previews == len(done.preview_steps)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([10, SMALL, 400, LARGE]), min_size=2, max_size=30), st.integers(1, 5))
def test_equal_images_start_in_arrival_order(sizes: list[int], steps: int) -> None:
    """Images of one tenant, priority and size start in the order of their arrival."""
    engine = Engine()
    for i, tokens in enumerate(sizes):
        engine.scheduler.add(task(str(i), tokens, steps, arrived=0.01 * i))
    engine.drain()
    for tokens in set(sizes):
        order = [int(done.request_id) for done in engine.started if done.tokens == tokens]
        assert order == sorted(order)


def test_request_joins_and_leaves_between_steps() -> None:
    engine = Engine()
    long, short = task("long", steps=4), task("short", steps=1)
    engine.scheduler.add(long)
    assert engine.step() == Batch(Phase.ENCODE, (long,))
    assert engine.step() == Batch(Phase.DENOISE, (long,))
    engine.scheduler.add(short)
    assert engine.step() == Batch(Phase.ENCODE, (short,))
    assert engine.step() == Batch(Phase.DENOISE, (short, long))
    assert engine.step() == Batch(Phase.DECODE, (short,))
    assert engine.step() == Batch(Phase.DENOISE, (long,))


@pytest.mark.parametrize("large", [400, LARGE])
@pytest.mark.parametrize(("limit", "share"), [(600.0, MIN_SHARE), (2.0, MAX_SHARE)], ids=["in time", "overdue"])
def test_small_requests_bounded_beside_large_stream(large: int, limit: float, share: float) -> None:
    """Small images are at most twice as slow as alone, apart from the large steps that run when they arrive.

    The large images get their minimum share, and more only if they would miss `max_queue_seconds`.
    """
    alone = COSTS.image_seconds(SMALL, 20, 32 * 32)
    engine, latencies = Engine(Scheduler(COSTS, BUDGET, 0.1, limit)), []
    for i in range(20):
        if not engine.scheduler.waiting:
            engine.scheduler.add(task("large", large, 20, arrived=engine.now))
        small = task(f"small{i}", SMALL, 20, arrived=engine.now)
        engine.scheduler.add(small)
        while small not in engine.finished:
            engine.step()
        latencies.append(engine.now - small.arrived)
    assert max(latencies) <= 2 * alone + 2 * COSTS.step_seconds(large)
    busy = sum(COSTS.step_seconds(b.tokens) for b in engine.batches if b.tasks[0].tokens == large)
    assert 0.75 * share <= busy / engine.now <= 1.5 * share


@pytest.mark.parametrize("timeout", [None, 12.0])
def test_large_request_in_time_beside_small_stream(timeout: float | None) -> None:
    """Finishes within `max_queue_seconds` or its own timeout, and takes no more of the device than that needs."""
    engine = Engine(Scheduler(COSTS, BUDGET, 0.1, max_queue_seconds=16.0))
    large = task("large", LARGE, 16, deadline=timeout)  # 5.2 s of work
    engine.scheduler.add(large)
    while large not in engine.finished:
        while len(engine.scheduler.running) < 4:
            engine.scheduler.add(task("small", SMALL, 3, arrived=engine.now))
            engine.step()
        engine.step()
    limit = timeout or 16.0
    assert 0.8 * limit <= engine.now <= 1.05 * limit


@pytest.mark.parametrize("large", [400, LARGE])
def test_large_request_not_starved_by_small_stream(large: int) -> None:
    engine, waiting = Engine(), task("large", large, 5)
    for i in range(1000):
        if i == 20:
            engine.scheduler.add(waiting)
        engine.scheduler.add(task(str(i), SMALL, 3, arrived=engine.now))
        engine.step()
        if waiting in engine.finished:
            return
    raise AssertionError("the large request never finished")


def test_short_request_overtakes_full_batch() -> None:
    engine = Engine()
    for i in range(12):
        engine.scheduler.add(task(f"long{i}", SMALL, 20))
    for _ in range(5):
        engine.step()
    engine.scheduler.add(task("short", SMALL, 5, arrived=engine.now))
    engine.drain()
    assert engine.finished[0].request_id == "short"


def test_larger_image_slowdown_bounded() -> None:
    engine = Engine()
    for i, tokens in enumerate((10, 10, 50, 150, 400, 700)):
        engine.scheduler.add(task(str(i), tokens, 30))
    engine.drain()
    for batch in engine.batches:
        if batch.phase is Phase.DENOISE:
            *smaller, largest = sorted(member.tokens for member in batch.tasks)
            if smaller:
                assert COSTS.step_seconds(sum(smaller) + largest) <= MAX_SLOWDOWN * COSTS.step_seconds(sum(smaller))


def test_priority_order_with_aging() -> None:
    engine = Engine(Scheduler(COSTS, 1, 0.0, QUEUE))  # one at a time
    order: list[Priority] = ["low", "normal", "high"]
    for priority in order:
        engine.scheduler.add(task(priority, priority=priority))
    engine.scheduler.add(task("late", arrived=PATIENCE["low"] + 1, priority="high"))
    engine.drain()
    assert [done.request_id for done in engine.finished] == ["high", "normal", "low", "late"]


@given(st.permutations([0.5, 1.0, 2.0, 5.0]))
def test_earliest_deadline_first(deadlines: list[float]) -> None:
    engine = Engine(Scheduler(COSTS, 1, 0.0, QUEUE))
    engine.scheduler.add(task("none"))
    for deadline in deadlines:
        engine.scheduler.add(task(str(deadline), deadline=deadline))
    engine.drain()
    assert [done.request_id for done in engine.finished] == ["0.5", "1.0", "2.0", "5.0", "none"]


def test_tenants_get_equal_shares() -> None:
    engine = Engine(Scheduler(COSTS, 1, 0.0, QUEUE))
    for i in range(40):
        engine.scheduler.add(task(f"greedy{i}", tenant="greedy"))
    for _ in range(50):
        engine.step()
    for i in range(10):
        engine.scheduler.add(task(f"modest{i}", tenant="modest", arrived=engine.now))
    before = len(engine.started)
    while sum(done.params.tenant == "modest" for done in engine.finished) < 10:
        engine.step()
    greedy = sum(done.params.tenant == "greedy" for done in engine.started[before:])
    assert 8 <= greedy <= 12


def test_idle_tenants_forgotten_once_others_catch_up() -> None:
    engine = Engine()
    for i in range(100):
        engine.scheduler.add(task(str(i), tenant=f"tenant{i}"))
    engine.drain()
    for _ in range(3):
        engine.scheduler.add(task("next", tenant="busy", arrived=engine.now))
        engine.drain()
    assert len(engine.scheduler.served) == 1


def test_remove_waiting_and_running_images() -> None:
    engine = Engine(Scheduler(COSTS, 1, 0.0, QUEUE))
    running, waiting, other = task("a"), task("a"), task("b")
    engine.scheduler.add(running)
    engine.step()
    engine.scheduler.add(waiting)
    engine.scheduler.add(other)
    assert set(engine.scheduler.remove("a")) == {running, waiting}
    assert engine.step() == Batch(Phase.ENCODE, (other,))
    assert engine.scheduler.remove("unknown") == []


def test_shrink_halves_token_budget() -> None:
    engine = Engine()
    engine.scheduler.shrink(600)
    assert engine.scheduler.token_budget == 300
