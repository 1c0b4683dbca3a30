"""One engine process and the pipe to it, without blocking the event loop. Runs in a thread for scripts and tests."""

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from .config import EngineConfig
from .host import STOP_SIGNALS
from .messages import Command, Report, Stop

log = logging.getLogger(__name__)
KILL = 9
"""SIGKILL, which Windows does not name. The kernel sends it when memory runs out."""


class EngineProcess:
    """An engine process. The future `ended` is done when the process has ended.

    A report that cannot be decoded, or whose `receive` raises, ends the process: skipping a report could lose an image.

    Args:
        receive: called on the event loop with each report of the process.
        in_process: use a thread of this process instead; it cannot be killed.
    """

    def __init__(
        self, config: EngineConfig, index: int, receive: Callable[[Report], None], in_process: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._name = f"sana-engine-{index}"
        self._outbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._pipe, self._child_pipe = context.Pipe()
        self._runner: SpawnProcess | threading.Thread
        arguments, name = (config, index, self._child_pipe), self._name
        from .worker import main  # the client's only import of the worker, which loads torch in its own process

        if in_process:
            self._runner = threading.Thread(target=main.serve, args=arguments, name=name, daemon=True)
        else:
            self._runner = context.Process(target=main.run_worker, args=arguments, name=name, daemon=True)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._killed = False

    async def start(self) -> None:
        """Starts the process. Cancellation waits for the start, or the process would run without an owner."""
        starting = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        finally:
            await starting

    @property
    def pid(self) -> int:
        """Id of the process; the id of this process for a thread."""
        return getattr(self._runner, "pid", None) or os.getpid()

    @property
    def exit_reason(self) -> str:
        """How the process ended, as the end of a sentence that names it."""
        status = getattr(self._runner, "exitcode", None)
        if self._killed or status is None:
            return "exited"
        if status >= 0:
            return f"exited with status {status}"
        if -status == KILL:
            return "was killed by SIGKILL (out of memory? `sana doctor` shows the limits, the kernel's log the reason)"
        name = next((number.name for number in signal.Signals if number == -status), f"signal {-status}")
        return f"was ended by {name}"

    def send(self, command: Command) -> None:
        """Queues a command without waiting; a process that has ended does not receive it."""
        self._outbox.put(command)

    def kill(self) -> None:
        """Ends the process at once; a thread finishes its step first."""
        self._killed = True
        if isinstance(self._runner, threading.Thread):
            self.send(Stop())
        elif self._runner.is_alive():
            self._runner.kill()

    async def stop(self, wait_seconds: float) -> None:
        """Ends the process after its step, kills it after `wait_seconds`, and returns when it has ended."""
        if self._runner.ident is None:  # start() failed
            return
        self.send(Stop())
        await asyncio.to_thread(self._runner.join, wait_seconds)
        if self._runner.is_alive():
            self.kill()
        await asyncio.to_thread(self._runner.join)
        if isinstance(self._runner, SpawnProcess):
            atexit.unregister(self._runner.kill)
        self._outbox.put(None)

    def _start(self) -> None:
        with blocked_signals():
            self._runner.start()
        if isinstance(self._runner, SpawnProcess):
            self._child_pipe.close()
            atexit.register(self._runner.kill)  # multiprocessing would send SIGTERM at exit, and wait for ever
        for work in (self._read, self._write):
            threading.Thread(target=work, args=(self._pipe,), name=f"{self._name}-pipe", daemon=True).start()

    def _read(self, pipe: Connection) -> None:
        """Thread: passes reports to the event loop until the process or the loop ends."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            while (report := self._next_report(pipe)) is not None:
                self._loop.call_soon_threadsafe(self._deliver, report)
            self._outbox.put(None)
            self._loop.call_soon_threadsafe(self._end)

    def _next_report(self, pipe: Connection) -> Report | None:
        """The next report, or None when the process has ended."""
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return None
        except Exception:
            log.exception("%s sent an undecodable message; stopping it", self._name)
        self.kill()
        with contextlib.suppress(EOFError, OSError):
            while True:  # a process that writes to a full pipe does not end
                pipe.recv_bytes()
        return None

    def _deliver(self, report: Report) -> None:
        try:
            self._receive(report)
        except Exception:
            log.exception("%s sent a report that could not be handled; stopping it", self._name)
            self.kill()

    def _write(self, pipe: Connection) -> None:
        """Thread: sends commands; the pipe of a hung process is full, and the event loop must not block on it."""
        with contextlib.suppress(OSError):
            while (command := self._outbox.get()) is not None:
                pipe.send(command)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Blocks STOP_SIGNALS in processes started inside, so that none ends a child before it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else Process.start would start it, which unblocks the signals
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
