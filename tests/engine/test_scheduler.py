"""Policy alone: no tensors, thousands of traces in seconds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.request import Phase, Request
from engine.scheduler import Scheduler
from engine.types import GenerationParams

BUDGET = 1000


def request(name: str, tokens: int = 100, steps: int = 3, forwards: int = 1) -> Request:
    return Request(name, 0, GenerationParams("a cat", 32, 32, steps, 4.5, 0), tokens, forwards)


def advance(scheduler: Scheduler) -> tuple[Phase, tuple[Request, ...]]:
    """What the engine's update does after a batch."""
    batch = scheduler.schedule()
    if batch.phase is Phase.DENOISE:
        for member in batch.requests:
            member.step += 1
    elif batch.phase is Phase.DECODE:
        scheduler.finish(batch.requests[0])
    return batch.phase, batch.requests


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 1500), st.integers(1, 5), st.integers(1, 2)),
        min_size=1,
        max_size=20,
    )
)
def test_everyone_finishes_in_turn_and_the_budget_holds(trace: list[tuple[int, int, int, int]]) -> None:
    """Arrivals at given steps, of any size: admitted first come first served, never above the budget but for one."""
    arrivals = sorted(trace, key=lambda item: item[0])
    pending = [
        (at, request(str(i), tokens, steps, forwards)) for i, (at, tokens, steps, forwards) in enumerate(arrivals)
    ]
    everyone = [item for _, item in pending]
    scheduler, admitted, finished = Scheduler(BUDGET), [], []
    for now in range(2000):
        while pending and pending[0][0] <= now:
            scheduler.add(pending.pop(0)[1])
        if not scheduler.busy:
            if not pending:
                break
            continue
        phase, members = advance(scheduler)
        admitted += members if phase is Phase.ENCODE else []
        finished += members if phase is Phase.DECODE else []
        if phase is Phase.DENOISE:
            assert members
            assert len(members) == 1 or sum(m.cost for m in members) <= BUDGET
    assert admitted == everyone
    assert set(finished) == set(everyone)
    assert all(m.step == m.params.num_inference_steps for m in everyone)


def test_a_request_joins_between_two_steps_and_leaves_when_its_own_are_done() -> None:
    scheduler = Scheduler(BUDGET)
    long, short = request("long", steps=4), request("short", steps=1)
    scheduler.add(long)
    assert advance(scheduler) == (Phase.ENCODE, (long,))
    assert advance(scheduler) == (Phase.DENOISE, (long,))
    scheduler.add(short)
    assert advance(scheduler) == (Phase.ENCODE, (short,))
    assert advance(scheduler) == (Phase.DENOISE, (long, short))
    assert advance(scheduler) == (Phase.DECODE, (short,))
    assert advance(scheduler) == (Phase.DENOISE, (long,))


def test_removal_finds_waiting_and_running_images() -> None:
    scheduler = Scheduler(max_batch_tokens=100)
    running, waiting, other = request("a"), request("a"), request("b")
    scheduler.add(running)
    advance(scheduler)
    scheduler.add(waiting)
    scheduler.add(other)
    assert set(scheduler.remove("a")) == {running, waiting}
    assert advance(scheduler) == (Phase.ENCODE, (other,))
    assert scheduler.remove("nobody") == []
