"""The engine as the ingress sees it, with replicas that die and refuse as scripted; test_cluster.py runs real ones."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra ray")

from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError

from deploy.ray.client import MAX_DEATHS, MAX_REFUSALS, RayEngine
from engine import (
    DeadlineExceeded,
    EngineConfig,
    EngineUnavailable,
    Event,
    Failed,
    Finished,
    GenerationFailed,
    GenerationParams,
    InvalidParams,
    ModelInfo,
    Progress,
    QueueFull,
    SanaError,
    Started,
    Timings,
)

MODEL = ModelInfo("demo", (256, 256), 20, 4.5, 32, 4096, 0, "cpu", "float32")
PARAMS = GenerationParams("a cat", 64, 64, 2, 4.5, seed=1)
DIED = ActorDiedError()
FULL = Failed("", QueueFull("the queue holds 61 s of work", 3.0))
STARTED, STEPS = Started(""), [Progress("", 0, 1, 2), Progress("", 0, 2, 2)]
FINISHED = Finished("", 0, 1, b"image", Timings(), 3)


class Handle:
    """What a DeploymentHandle of the deployment `engine` does, with the streams of its replicas as a list.

    A stream is the name of the replica, then its events; an error among them ends it.
    """

    def __init__(self, *streams: Sequence[str | Event | Exception]) -> None:
        self.streams = list(streams)
        self.tried: list[tuple[str, ...]] = []
        self.timeouts: list[float | None] = []
        self.model = self.generate = self

    def options(self, stream: bool) -> "Handle":
        return self

    def remote(self, *arguments: Any) -> Any:
        if not arguments:
            return asyncio.sleep(0, MODEL)
        self.tried.append(arguments[2])
        self.timeouts.append(arguments[0].timeout)
        return Stream(self.streams.pop(0))


class Stream:
    def __init__(self, items: Sequence[str | Event | Exception]) -> None:
        self.items = self.play(items)

    async def play(self, items: Sequence[str | Event | Exception]) -> AsyncIterator[str | Event]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        return await anext(self.items)

    def cancel(self) -> None: ...


def generate(handle: Handle, params: GenerationParams = PARAMS) -> tuple[list[Event], RayEngine]:
    async def main() -> tuple[list[Event], RayEngine]:
        engine = RayEngine(EngineConfig(), handle)
        await engine.start()
        assert engine.ready
        return [event async for event in engine.generate(params, "id")], engine

    return asyncio.run(main())


def test_events_pass_under_the_id_of_the_request() -> None:
    events, engine = generate(Handle(["a", STARTED, *STEPS, FINISHED]))
    assert [event.request_id for event in events] == ["id"] * 4
    assert engine.stats().retries == engine.stats().running_images == engine.stats().queued_images == 0


def test_dead_replica_is_replaced_and_nothing_is_sent_twice() -> None:
    events, engine = generate(Handle(["a", STARTED, STEPS[0], DIED], ["b", STARTED, *STEPS, FINISHED]))
    assert [type(event) for event in events] == [Started, Progress, Progress, Finished]
    assert engine.stats().retries == 1


def test_replica_that_dies_before_it_answers_is_replaced() -> None:
    events, _ = generate(Handle([DIED], [DIED], [DIED], [DIED], ["b", STARTED, *STEPS, FINISHED]))
    assert isinstance(events[-1], Finished)


def test_request_that_ends_every_replica_fails() -> None:
    handle = Handle(*[["a", STARTED, DIED]] * (MAX_DEATHS + 1))
    with pytest.raises(GenerationFailed, match="3 engine replicas ended"):
        generate(handle)
    assert len(handle.tried) == MAX_DEATHS


def test_refused_request_is_offered_to_replicas_that_have_not_refused() -> None:
    handle = Handle(["a", FULL], ["b", STARTED, *STEPS, FINISHED])
    events, engine = generate(handle)
    assert isinstance(events[-1], Finished)
    assert handle.tried == [(), ("a",)]
    assert not engine.stats().rejected


@pytest.mark.parametrize("replicas", ["aa", "abb", "abc"])
def test_request_that_all_refuse_raises_the_refusal(replicas: str) -> None:
    handle = Handle(*[[replica, FULL] for replica in replicas])
    with pytest.raises(QueueFull) as caught:
        generate(handle)
    assert caught.value.retry_after == 3.0
    assert len(handle.tried) == len(replicas) <= MAX_REFUSALS


@pytest.mark.parametrize("error", [InvalidParams("wrong", "size"), GenerationFailed("broken")])
def test_other_errors_are_raised_at_once(error: SanaError) -> None:
    with pytest.raises(type(error)):
        generate(Handle(["a", Failed("", error)]))


def test_deployment_that_has_failed_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match="try again later"):
        generate(Handle([DeploymentUnavailableError("engine")]))


def test_invalid_request_reaches_no_replica() -> None:
    handle = Handle()
    with pytest.raises(InvalidParams):
        generate(handle, GenerationParams("a cat", 64, 64, 2, 4.5, seed=1, n=0))
    assert not handle.tried


def test_further_try_has_the_time_that_is_left() -> None:
    handle = Handle(["a", STARTED, DIED], ["b", STARTED, *STEPS, FINISHED])
    generate(handle, GenerationParams("a cat", 64, 64, 2, 4.5, seed=1, timeout=30.0))
    assert 29 < handle.timeouts[1] < handle.timeouts[0] <= 30


def test_timeout_without_any_replica_is_the_deadline() -> None:
    class Never(Stream):
        async def __anext__(self) -> Any:
            await asyncio.Event().wait()

    handle = Handle()
    handle.remote = lambda *arguments: Never([]) if arguments else asyncio.sleep(0, MODEL)  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded, match=r"timeout of 0\.05 s"):
        generate(handle, GenerationParams("a cat", 64, 64, 2, 4.5, seed=1, timeout=0.05))
