"""Every policy finishes the trace; the arrivals of the load are a Poisson process."""

import queue

import pytest

from benchmarks.policies import POLICIES, make_trace, replay, same_shape
from benchmarks.serving import arrivals
from engine import EngineConfig, Event, StepReport
from engine.worker.core import EngineCore

EVENTS: "queue.SimpleQueue[Event | StepReport]" = queue.SimpleQueue()


@pytest.fixture(scope="module")
def core() -> EngineCore:
    return EngineCore(EngineConfig(device="cpu"), EVENTS.put)


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_finishes_every_request(policy: str, core: EngineCore) -> None:
    trace = make_trace(5, sides=[64, 96], steps=[1, 2], seed=0)
    seconds, latencies = replay(core, EVENTS, trace, concurrency=3, policy=policy)
    assert len(latencies) == 5
    assert 0 < max(latencies) <= seconds
    assert not core.busy


def test_same_shape_batches_with_the_oldest() -> None:
    trace = make_trace(12, sides=[64, 96], steps=[2], seed=1)
    chosen = same_shape([3, 5, 7, 8, 9, 11], trace)
    assert chosen[0] == 3
    assert {(trace[i].width, trace[i].height) for i in chosen} == {(trace[3].width, trace[3].height)}


def test_arrivals_follow_rate_and_seed() -> None:
    trace = arrivals(rate=20.0, seconds=100.0, sizes=["64x64", "96x64"], steps=4, seed=0)
    assert 1800 < len(trace) < 2200
    assert all(0 < moment < 100 for moment, _ in trace)
    assert trace == arrivals(20.0, 100.0, ["64x64", "96x64"], 4, seed=0)
    assert {body["size"] for _, body in trace} == {"64x64", "96x64"}
