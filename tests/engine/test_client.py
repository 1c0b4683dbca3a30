"""EngineClient with real engine processes: admission, cancellation, deadlines, crashes and shutdown."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from engine import (
    CheckpointError,
    DeadlineExceeded,
    EngineClient,
    EngineConfig,
    EngineUnavailable,
    Event,
    Finished,
    GenerationFailed,
    GenerationParams,
    InvalidParams,
    Progress,
    QueueFull,
    RequestCancelled,
    SanaError,
    StepReport,
)

PARAMS = GenerationParams("a cat", 64, 64, 2, 4.5, seed=1)
ENDLESS = GenerationParams("a cat", 512, 512, 100, 4.5, seed=1)
SECONDS = 60.0


def run(config: EngineConfig, scenario: Callable[[EngineClient], Awaitable[None]], in_process: bool = False) -> None:
    """Runs a scenario against a new engine."""

    async def main() -> None:
        client = EngineClient(config, in_process=in_process)
        await client.start()
        try:
            await asyncio.wait_for(scenario(client), SECONDS)
        finally:
            await client.stop()

    asyncio.run(main())


async def finished(events: AsyncGenerator[Event]) -> list[Finished]:
    return [event async for event in events if isinstance(event, Finished)]


async def first_steps(events: AsyncGenerator[Event], count: int = 3) -> None:
    for _ in range(count):
        await anext(events)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_step_callback_error_logged_request_finishes(
    checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: StepReport) -> None:
        raise ValueError("no such gauge")

    async def main() -> None:
        client = EngineClient(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu"), fail, in_process=True)
        await client.start()
        try:
            assert len(await asyncio.wait_for(finished(client.generate(PARAMS)), SECONDS)) == 1
        finally:
            await client.stop()

    asyncio.run(main())
    assert "on_step failed" in caplog.text
    assert "no such gauge" in caplog.text


@pytest.mark.parametrize("in_process", [False, True], ids=["processes", "threads"])
def test_client_lifecycle(in_process: bool, checkpoint: Callable[[str], Path]) -> None:
    config = EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu,cpu", max_queue_seconds=0.5)

    async def scenario(client: EngineClient) -> None:
        assert client.ready
        assert len(client.pids) == 2
        assert (os.getpid() in client.pids) == in_process
        both = await asyncio.gather(finished(client.generate(PARAMS)), finished(client.generate(PARAMS)))
        assert both[0][0].image == both[1][0].image
        assert both[0][0].image.startswith(b"\x89PNG")
        with pytest.raises(InvalidParams):
            await anext(client.generate(replace(PARAMS, prompt="")))
        assert client.queued_images == 0

        endless = [client.generate(ENDLESS), client.generate(ENDLESS, "second")]
        for events in endless:
            await first_steps(events)
        assert client.stats().running_images == 2
        with pytest.raises(QueueFull, match=r"the limit is 0\.5 s") as full:
            await anext(client.generate(ENDLESS))
        assert 0 < full.value.retry_after <= client.stats().queue_seconds + 1
        with pytest.raises(InvalidParams, match="is in use by a running request"):
            await anext(client.generate(PARAMS, "second"))
        await endless[0].aclose()  # closing the generator cancels within a step
        assert client.abort("second")
        assert not client.abort("second")
        with pytest.raises(RequestCancelled):
            await first_steps(endless[1], 1000)
        assert client.queued_images == 0
        assert len(await finished(client.generate(PARAMS))) == 1
        stats = client.stats()
        assert stats.rejected == {"invalid": 2, "queue_full": 1, "deadline": 0, "unavailable": 0}
        assert (stats.cancelled, stats.restarts, stats.retries) == (2, 0, 0)
        assert stats.wasted_seconds > 0
        assert min(stats.memory_bytes) > 2**20
        assert min(stats.memory_limit_bytes) > max(stats.memory_bytes)

        endless[0] = client.generate(ENDLESS)  # stopping fails running requests
        await first_steps(endless[0])
        await client.stop()
        with pytest.raises(EngineUnavailable, match="stopping"):
            await first_steps(endless[0], 1000)

    run(config, scenario, in_process)


def test_queue_seconds_of_busiest_device(checkpoint: Callable[[str], Path]) -> None:
    async def scenario(client: EngineClient) -> None:
        endless = client.generate(ENDLESS)  # one of the two devices stays idle
        await first_steps(endless, 1)
        assert client.stats().queue_seconds > 0
        await endless.aclose()
        assert client.stats().queue_seconds == 0

    run(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu,cpu"), scenario, in_process=True)


def test_background_request_delays_no_other(checkpoint: Callable[[str], Path]) -> None:
    """It exceeds the queue's limit, counts in no prediction, and a request that arrives later overtakes it."""
    config = EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu", max_queue_seconds=0.5)
    background = replace(PARAMS, num_inference_steps=100, n=10, background=True)

    async def scenario(client: EngineClient) -> None:
        assert client.background_room
        tasks = [asyncio.create_task(finished(client.generate(background))) for _ in range(20)]
        await until(lambda: client.stats().running_images > 0)
        assert not client.background_room
        assert client.stats().queue_seconds == 0
        await finished(client.generate(PARAMS))
        await finished(client.generate(replace(PARAMS, timeout=30.0)))
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: client.queued_images == 0)

    run(config, scenario)


def test_background_suspects_of_crash_wait_for_others(checkpoint: Callable[[str], Path]) -> None:
    """Suspects run alone, one by one; a later request does not wait for those of the background."""
    config = EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu")
    background = replace(PARAMS, num_inference_steps=100, background=True)

    async def scenario(client: EngineClient) -> None:
        tasks = [asyncio.create_task(finished(client.generate(background))) for _ in range(8)]
        await until(lambda: client.stats().running_images == 8)
        os.kill(client.pids[0], signal.SIGKILL)
        await until(lambda: not client.ready)
        await finished(client.generate(PARAMS))
        assert not all(task.done() for task in tasks)
        assert [len(images) for images in await asyncio.gather(*tasks)] == [1] * 8
        assert client.stats().retries == 8

    run(config, scenario)


def test_deadline_refuses_early_or_ends_request(checkpoint: Callable[[str], Path]) -> None:
    async def scenario(client: EngineClient) -> None:
        with pytest.raises(DeadlineExceeded, match=r"its timeout is 0\.01 s"):
            await anext(client.generate(replace(ENDLESS, timeout=0.01)))
        started = time.monotonic()
        events = client.generate(replace(PARAMS, num_inference_steps=100, timeout=5.0))
        await first_steps(events)
        os.kill(client.pids[0], signal.SIGSTOP)  # a delay that no cost model predicts
        with pytest.raises(DeadlineExceeded, match="did not finish within"):
            await first_steps(events, 1000)
        assert 4 < time.monotonic() - started < 9
        os.kill(client.pids[0], signal.SIGCONT)
        assert len(await finished(client.generate(replace(PARAMS, timeout=30.0)))) == 1
        assert client.stats().rejected["deadline"] == 1
        assert client.stats().cancelled == 1

    run(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu"), scenario)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "hang"])
def test_dead_or_hung_process_replaced_images_identical(
    number: signal.Signals, checkpoint: Callable[[str], Path]
) -> None:
    requests = [replace(PARAMS, seed=seed, num_inference_steps=30, n=2) for seed in (0, 10, 20)]

    async def scenario(client: EngineClient) -> None:
        undisturbed = await asyncio.gather(*(finished(client.generate(params)) for params in requests))
        streams: list[list[Event]] = [[] for _ in requests]

        async def collect(index: int) -> None:
            async for event in client.generate(requests[index]):
                streams[index].append(event)

        collecting = asyncio.gather(*map(collect, range(3)))
        await until(lambda: sum(isinstance(event, Progress) for event in streams[0]) > 4)
        os.kill(client.pids[0], number)
        await until(lambda: not client.ready)
        late = asyncio.create_task(finished(client.generate(PARAMS)))  # accepted while there is no process
        await collecting
        assert len(await late) == 1
        for stream, expected in zip(streams, undisturbed, strict=True):
            images = {event.image_index: event.image for event in stream if isinstance(event, Finished)}
            assert images == {event.image_index: event.image for event in expected}
            names = [type(event).__name__ for event in stream]
            assert names.count("Started") == 1
            assert names.count("Finished") == 2
            steps = [event.step for event in stream if isinstance(event, Progress) and event.image_index == 0]
            assert steps == list(range(1, 31))
        stats = client.stats()
        assert (stats.restarts, stats.retries) == (1, 3)
        assert client.ready

    run(
        EngineConfig(
            model=str(checkpoint("sana-1.5")), device="cpu", hang_seconds=1.0, exact=True, max_queue_seconds=3600
        ),
        scenario,
    )


def test_overflow_found_at_first_preview(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(**arguments: object) -> tuple[object, ...]:
        return tuple(part * float("nan") for part in step(**arguments))

    step = import_module("engine.worker.pack").guided_step
    params = replace(PARAMS, num_inference_steps=100, partial_images=3)

    async def scenario(client: EngineClient) -> None:
        monkeypatch.setattr("engine.worker.pack.guided_step", overflow)  # after the warm-up
        steps = []

        async def collect() -> None:
            async for event in client.generate(params):
                steps.append(event.step if isinstance(event, Progress) else 0)

        with pytest.raises(GenerationFailed, match="overflowed in float32"):
            await collect()
        assert 25 <= max(steps) < 100
        assert client.queued_images == 0

    run(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu"), scenario, in_process=True)


def test_drain_finishes_in_grace_then_fails_rest(checkpoint: Callable[[str], Path]) -> None:
    async def scenario(client: EngineClient) -> None:
        short = asyncio.create_task(finished(client.generate(replace(PARAMS, num_inference_steps=10))))
        endless = client.generate(replace(ENDLESS, width=2048, height=2048))
        await first_steps(endless)
        draining = asyncio.create_task(client.drain(3.0))
        await asyncio.sleep(0)
        assert len(await short) == 1
        assert client.draining
        assert not client.ready
        with pytest.raises(EngineUnavailable, match="stopping"):
            await anext(client.generate(PARAMS))
        with pytest.raises(EngineUnavailable, match="stopping"):
            await first_steps(endless, 1000)
        await draining

    run(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu", max_queue_seconds=3600), scenario)


def test_step_reports_cover_all_phases(checkpoint: Callable[[str], Path]) -> None:
    async def main() -> list[StepReport]:
        reports: list[StepReport] = []
        client = EngineClient(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu"), reports.append, True)
        await client.start()
        await finished(client.generate(replace(PARAMS, n=2)))
        await client.stop()
        return reports

    reports = asyncio.run(main())
    assert [report.phase for report in reports[:3]] == ["encode", "denoise", "denoise"]
    assert sorted(report.phase for report in reports[3:]) == ["decode", "decode"]
    assert {(report.tokens, report.images, report.requests) for report in reports[1:3]} == {(16, 2, 1)}
    assert {report.pixels for report in reports[3:]} == {64 * 64}
    assert all(report.seconds > 0 and report.token_budget > 0 for report in reports)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (EngineConfig(model="no-such-model"), CheckpointError, "no model 'no-such-model'"),
        (EngineConfig(device="cpu,cuda:99"), SanaError, "cuda:99"),
    ],
)
def test_start_failure_names_reason(config: EngineConfig, error: type[SanaError], message: str) -> None:
    client = EngineClient(config)
    with pytest.raises(error, match=message):
        asyncio.run(client.start())
    assert not client.ready


@pytest.mark.parametrize("moment", ["loading", "generating"])
def test_engine_process_ends_with_parent(moment: str, checkpoint: Callable[[str], Path]) -> None:
    program = f"""
import asyncio, multiprocessing
from engine import EngineClient, EngineConfig, GenerationParams
async def main():
    client = EngineClient(EngineConfig(model={str(checkpoint("sana-1.5"))!r}, device="cpu"))
    starting = asyncio.create_task(client.start())
    while not multiprocessing.active_children(): await asyncio.sleep(0.01)
    if {moment!r} == "generating":
        await starting
        await anext(client.generate(GenerationParams("a cat", 512, 512, 100, 4.5, seed=1)))
    print(*client.pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < end, "the engine process is still running"
        time.sleep(0.05)


def test_termination_of_process_group_finishes_accepted(checkpoint: Callable[[str], Path]) -> None:
    """A service manager signals every process of the group; only the parent may act on it."""
    program = f"""
import asyncio, signal
from engine import EngineClient, EngineConfig, Finished, GenerationParams
async def main():
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    client = EngineClient(EngineConfig(model={str(checkpoint("sana-1.5"))!r}, device="cpu"))
    await client.start()
    events = client.generate(GenerationParams("a cat", 64, 64, 100, 4.5, seed=1))
    await anext(events)
    print("started", flush=True)
    await terminated.wait()
    await asyncio.sleep(0.2)
    _, images = await asyncio.gather(client.drain(60), collect(events))
    print(len(images), client.stats().restarts, flush=True)
    await client.stop()
async def collect(events):
    return [event async for event in events if isinstance(event, Finished)]
asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    os.killpg(parent.pid, signal.SIGTERM)
    output, log = parent.communicate(timeout=SECONDS)
    assert (output, parent.returncode) == ("1 0\n", 0)
    assert "ERROR" not in log


def test_client_import_without_torch() -> None:
    code = "import engine, sys; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
