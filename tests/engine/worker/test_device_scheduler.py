"""Interactive images beside background ones, without tensors, on the clock of the cost model."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.costs import CostModel
from engine.worker.device_scheduler import (
    BACKGROUND_STEP,
    FILL_SLOWDOWN,
    MAX_ENCODED_PROMPTS,
    DeviceScheduler,
)
from engine.worker.image_task import Batch, ImageTask, Phase
from engine.worker.scheduler import Scheduler

from .test_scheduler import BUDGET, COSTS, LARGE, QUEUE, SMALL, Engine, task

FLAT = CostModel(encode=0.01, step=0.02, token=1e-6, decode=0.01, pixel=1e-7)
"""A device on which a step takes nearly as long with more tokens, as on a GPU."""


def engine_of(costs: CostModel = COSTS, exact: bool = False) -> Engine:
    return Engine(DeviceScheduler(costs, BUDGET, 0.1, QUEUE, exact))  # type: ignore[arg-type]


def background(name: str, tokens: int = SMALL, steps: int = 20) -> ImageTask:
    return task(name, tokens, steps, background=True)


def test_background_leaves_at_next_step() -> None:
    engine = engine_of()
    for i in range(4):
        engine.scheduler.add(background(str(i)))
    for _ in range(3):
        engine.step()
    urgent = task("urgent", arrived=engine.now)
    engine.scheduler.add(urgent)
    while urgent not in engine.finished:
        assert engine.step().tasks == (urgent,)
    assert len(engine.step().tasks) == 4  # and goes on from the step it had reached
    assert {done.step for done in engine.scheduler.running} == {3}


@pytest.mark.parametrize("tokens", [SMALL, LARGE])
def test_interactive_latency_beside_background_bounded(tokens: int) -> None:
    """One background step, decode or encode batch, whichever is longest, and nothing more."""
    alone = COSTS.encode + COSTS.image_seconds(SMALL, 20, 32 * 32)
    longest = max(
        min(0.1, BACKGROUND_STEP * COSTS.step), COSTS.step_seconds(tokens), MAX_ENCODED_PROMPTS * COSTS.encode
    )
    engine = engine_of()
    for i in range(30):
        while len(engine.scheduler.background.waiting.get("", [])) < 8:  # type: ignore[attr-defined]
            engine.scheduler.add(background(f"{i}", tokens))
        for _ in range(i):
            engine.step()
        urgent = task("urgent", steps=20, arrived=engine.now)
        engine.step()  # it arrives during this one
        engine.scheduler.add(urgent)
        while urgent not in engine.finished:
            engine.step()
        assert engine.now - urgent.arrived <= alone + longest + 1e-9


@pytest.mark.parametrize("exact", [False, True])
def test_background_fills_step_where_free(exact: bool) -> None:
    engine = engine_of(FLAT, exact)
    for i in range(4):
        engine.scheduler.add(background(str(i)))
    for _ in range(2):
        engine.step()
    engine.scheduler.add(task("urgent", arrived=engine.now))
    assert engine.step().phase is Phase.ENCODE
    step = engine.step()
    assert len(step.tasks) == (1 if exact else 5)
    assert FLAT.step_seconds(step.tokens) <= FILL_SLOWDOWN * FLAT.step_seconds(SMALL)


def test_background_packs_like_interactive_when_alone() -> None:
    sizes: dict[bool, int] = {}
    for flag in (False, True):
        engine = engine_of(FLAT)
        for i in range(40):
            engine.scheduler.add(task(str(i), steps=20, background=flag))
        engine.drain()
        sizes[flag] = max(len(batch.tasks) for batch in engine.batches if batch.phase is Phase.DENOISE)
    assert sizes[False] == sizes[True] == BUDGET // SMALL


def test_background_does_not_charge_tenant() -> None:
    """Hours of background work of a tenant do not delay its interactive images."""
    engine = engine_of()
    for i in range(50):
        engine.scheduler.add(task(str(i), tenant="a", background=True))
    engine.drain()
    for tenant in ("b", "a", "b", "a"):
        engine.scheduler.add(task(tenant, BUDGET, tenant=tenant, arrived=engine.now))
    engine.drain()
    assert sorted(done.request_id for done in engine.finished[-4:-2]) == ["a", "b"]


def test_remove_finish_and_shrink_reach_both_classes() -> None:
    engine = engine_of()
    first, second = task("a"), background("b")
    engine.scheduler.add(first)
    engine.scheduler.add(second)
    assert engine.scheduler.remove("b") == [second]
    assert engine.scheduler.remove("a") == [first]
    assert not engine.scheduler.busy
    engine.scheduler.shrink(600)
    engine.scheduler.costs = replace(COSTS, token=1e-9)
    assert engine.scheduler.token_budget == engine.scheduler.background.token_budget == 300  # type: ignore[attr-defined]


@pytest.mark.parametrize(("fixed", "seconds"), [(0.001, 0.05), (0.004, 0.08), (0.02, 0.1)])
def test_background_step_follows_fixed_part(fixed: float, seconds: float) -> None:
    engine = engine_of()
    engine.scheduler.costs = replace(COSTS, step=fixed)
    assert engine.scheduler.background.max_step_seconds == pytest.approx(seconds)  # type: ignore[attr-defined]


arrival = st.tuples(st.floats(0, 2), st.sampled_from([10, SMALL, 400, LARGE]), st.integers(1, 6), st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(arrival, min_size=1, max_size=20), st.sampled_from([COSTS, FLAT]))
def test_random_traces_of_both_classes_finish(trace: list[tuple], costs: CostModel) -> None:  # type: ignore[type-arg]
    """No image is lost or generated twice, and the background loses no interactive image its turn."""
    orders = []
    for with_background in (False, True):
        engine = engine_of(costs)
        pending = [
            task(str(i), tokens, steps, arrived=at, background=flag)
            for i, (at, tokens, steps, flag) in enumerate(sorted(trace))
            if with_background or not flag
        ]
        count = len(pending)
        while pending or engine.scheduler.busy:
            while pending and (pending[0].arrived <= engine.now or not engine.scheduler.busy):
                engine.now = max(engine.now, pending[0].arrived)
                engine.scheduler.add(pending.pop(0))
            engine.step()
        assert len(engine.finished) == count
        orders.append([one.request_id for one in engine.started if not one.params.background])
        assert all(batch.tasks for batch in engine.batches)
    assert sorted(orders[0]) == sorted(orders[1])


def test_started_images_only_fill() -> None:
    """A background image that has not started costs an encode batch, so it waits."""
    engine = engine_of(FLAT)
    engine.scheduler.add(task("urgent"))
    engine.scheduler.add(background("waiting"))
    assert engine.step() == Batch(Phase.ENCODE, tuple(engine.scheduler.running))
    assert len(engine.step().tasks) == 1
    assert isinstance(engine.scheduler.background, Scheduler)  # type: ignore[attr-defined]
