"""Failures between the client and an engine process: no request may wait for a process that has ended."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from engine import EngineClient, EngineConfig, EngineUnavailable, Finished, GenerationParams, StepReport
from engine.messages import Command, Report
from engine.replica import Replica
from engine.request import Request
from engine.worker.main import run_worker, serve

PARAMS = GenerationParams("a cat", 64, 64, 3, 4.5, seed=1)
SECONDS = 60.0
MARK = "SANA_TEST_MARK"


class GarblingPipe:
    """Pipe that sends one bad message before the first step report, and records that in a file.

    The file, named by the environment, keeps the next process from sending another.
    """

    def __init__(self, pipe: Connection, garble: Callable[[Connection], None]) -> None:
        self.pipe, self.garble, self.mark = pipe, garble, Path(os.environ[MARK])

    def send(self, report: Report) -> None:
        if isinstance(report, StepReport) and not self.mark.exists():
            self.mark.touch()
            self.garble(self.pipe)
        self.pipe.send(report)

    def recv(self) -> Command:
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.close()


def unreadable(pipe: Connection) -> None:
    pipe.send_bytes(b"no pickle")


def unexpected(pipe: Connection) -> None:
    pipe.send(StepReport(0, "denoise", "soon", 8, 8, 0, 1, 1, 0, 0, 0))  # type: ignore[arg-type]


def unreadable_process(config: EngineConfig, index: int, pipe: Connection) -> None:
    run_worker(config, index, GarblingPipe(pipe, unreadable))  # type: ignore[arg-type]


def unexpected_process(config: EngineConfig, index: int, pipe: Connection) -> None:
    run_worker(config, index, GarblingPipe(pipe, unexpected))  # type: ignore[arg-type]


def unreadable_thread(config: EngineConfig, index: int, pipe: Connection) -> None:
    serve(config, index, GarblingPipe(pipe, unreadable))  # type: ignore[arg-type]


@pytest.fixture
def config(checkpoint: Callable[[str], Path]) -> EngineConfig:
    return EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu", exact=True)


async def finished(client: EngineClient) -> list[Finished]:
    return [event async for event in client.generate(PARAMS, "r") if isinstance(event, Finished)]


@pytest.mark.parametrize(
    ("target", "worker", "message"),
    [
        ("run_worker", unreadable_process, "sana-engine-0 sent an undecodable message"),
        ("serve", unreadable_thread, "sana-engine-0 sent an undecodable message"),
        ("run_worker", unexpected_process, "sana-engine-0 sent a report that could not be handled"),
    ],
)
def test_bad_message_replaces_process_and_retries(
    target: str,
    worker: Callable[..., None],
    message: str,
    config: EngineConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path / "garbled"))
    monkeypatch.setattr(f"engine.worker.main.{target}", worker)

    async def main() -> None:
        client = EngineClient(config, in_process=target == "serve")
        await client.start()
        try:
            first = await asyncio.wait_for(finished(client), SECONDS)
            assert client.stats().restarts == client.stats().retries == 1
            again = await asyncio.wait_for(finished(client), SECONDS)
            assert [event.image for event in first] == [event.image for event in again]
        finally:
            await client.stop()

    asyncio.run(main())
    assert caplog.text.count(message) == 1


def test_process_start_failure_raised_then_retried(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, failures = SpawnProcess.start, iter([True, False, True, False])

    def start_or_fail(process: SpawnProcess) -> None:
        if next(failures):
            raise OSError("Too many open files")
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", start_or_fail)

    async def main() -> None:
        with pytest.raises(EngineUnavailable, match="exited during start-up; see its log"):
            await asyncio.wait_for(EngineClient(config).start(), SECONDS)
        client = EngineClient(config)
        await client.start()
        try:
            events = client.generate(PARAMS)
            await anext(events)
            os.kill(client.pids[0], signal.SIGKILL)
            assert [event async for event in events if isinstance(event, Finished)]
            assert client.stats().restarts == 2
        finally:
            await client.stop()

    asyncio.run(main())
    assert caplog.text.count("could not be started") == 2


def test_hung_reload_killed_then_next_attempt_serves(
    config: EngineConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Path(shutil.copytree(config.model, tmp_path / "model"))
    settings = model / "transformer" / "config.json"
    content = settings.read_text()
    config = replace(config, model=str(model))
    caplog.set_level("INFO")

    async def main() -> None:
        replica = Replica(config, 0, lambda report: None, lambda request: None)
        running = asyncio.create_task(replica.run())
        await asyncio.wait_for(replica.started, SECONDS)
        settings.unlink()
        os.mkfifo(settings)  # reading it waits for ever, as on a network file system that stops answering
        replica.config = replace(config, start_seconds=2)
        assert replica.process is not None
        os.kill(replica.process.pid, signal.SIGKILL)
        while replica.failed_starts == 0:
            await asyncio.sleep(0.01)
        settings.unlink()
        settings.write_text(content)
        replica.config = config
        while not replica.ready:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))
    assert "engine process 0 was killed by SIGKILL (out of memory?" in caplog.text
    assert "engine process 0 is still loading after" in caplog.text
    assert "was not ready within 2 s; allow more with --start-seconds; killing it" in caplog.text
    assert caplog.text.count("out of memory?") == 1  # not for the process that the replica killed itself


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL (out of memory?"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", f"was ended by signal {signal.SIGRTMIN + 1}"),
        ("os._exit(3)", "exited with status 3"),
    ],
)
def test_end_of_process_named(end: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys, threading\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"  # a second later the parent has sent it its arguments
        f"    threading.Timer(1, lambda: {end}).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    async def main() -> None:
        with pytest.raises(EngineUnavailable, match=re.escape(f"the engine process {reason}")):
            await asyncio.wait_for(EngineClient(EngineConfig(device="cpu")).start(), SECONDS)

    asyncio.run(main())


def test_orphan_without_other_replica_waits(config: EngineConfig, caplog: pytest.LogCaptureFixture) -> None:
    def nowhere(request: Request) -> None:
        raise EngineUnavailable("the engine is not running")

    async def main() -> None:
        replica = Replica(config, 0, lambda report: None, nowhere, in_process=True)
        running = asyncio.create_task(replica.run())
        await asyncio.wait_for(replica.started, SECONDS)
        requests = [
            Request(name, replace(PARAMS, num_inference_steps=50), 1.0, 8, 0.0, None) for name in ("a", "b", "c")
        ]
        for request in requests:
            replica.add(request)
        await requests[0].events.get()  # started; with `exact` the last one has not
        assert replica.process is not None
        replica.process.kill()
        for request in requests:
            while not request.done:
                await asyncio.wait_for(request.events.get(), SECONDS)
        assert replica.restarts == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert caplog.text.count("requests of process 0 could not be moved") == 1
