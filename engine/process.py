"""One engine process and the pipe to it, never blocking the event loop. In a thread for scripts and tests."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from .config import EngineConfig
from .messages import Order, Report, Stop

log = logging.getLogger(__name__)


class EngineProcess:
    """Started by `start`; `receive` is called on the event loop with all it says, `ended` is done when it is gone.

    What cannot be read, or cannot be received without an exception, ends it: nothing it said is passed over.

    Args:
        in_process: a thread of this process instead: nothing to spawn, and nothing that could be killed.
    """

    def __init__(
        self, config: EngineConfig, index: int, receive: Callable[[Report], None], in_process: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._name = f"sana-engine-{index}"
        self._outbox: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._runner: SpawnProcess | threading.Thread
        arguments, name = (config, index, self._theirs), self._name
        from .worker import main  # the only import of the worker from this side; it loads torch in its own process

        if in_process:
            self._runner = threading.Thread(target=main.serve, args=arguments, name=name, daemon=True)
        else:
            self._runner = context.Process(target=main.run_worker, args=arguments, name=name, daemon=True)
        self.ended: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Not to be cancelled half-way: nobody would know of the process."""
        starting = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        finally:
            await starting

    @property
    def pid(self) -> int:
        return getattr(self._runner, "pid", None) or os.getpid()

    def send(self, order: Order) -> None:
        """Never waits; to a process that is gone it says nothing."""
        self._outbox.put(order)

    def kill(self) -> None:
        """At once; a thread has to finish its step first."""
        if isinstance(self._runner, threading.Thread):
            self.send(Stop())
        else:
            self._runner.kill()

    async def stop(self, wait_seconds: float) -> None:
        """Lets it finish its step, kills it after `wait_seconds`, and returns when it is gone."""
        if self._runner.ident is None:  # it could not be started
            return
        self.send(Stop())
        await asyncio.to_thread(self._runner.join, wait_seconds)
        if self._runner.is_alive():
            self.kill()
        await asyncio.to_thread(self._runner.join)
        self._outbox.put(None)

    def _start(self) -> None:
        # Ctrl-C reaches the whole process group and is the parent's to handle: the child inherits this mask from birth
        resource_tracker.ensure_running()  # it would be started on the way, and lifts the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._runner.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if isinstance(self._runner, SpawnProcess):
            self._theirs.close()
        for work in (self._read, self._write):
            threading.Thread(target=work, args=(self._pipe,), name=f"{self._name}-pipe", daemon=True).start()

    def _read(self, pipe: Connection) -> None:
        """Thread: carries what it says into the event loop until either ends."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            while (report := self._next(pipe)) is not None:
                self._loop.call_soon_threadsafe(self._hand_over, report)
            self._outbox.put(None)
            self._loop.call_soon_threadsafe(self._end)

    def _next(self, pipe: Connection) -> Report | None:
        """None: it is gone."""
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return None
        except Exception:
            log.exception("%s sent what cannot be read", self._name)
        self.kill()
        with contextlib.suppress(EOFError, OSError):
            while True:  # a full pipe would keep it from ending
                pipe.recv_bytes()
        return None

    def _hand_over(self, report: Report) -> None:
        try:
            self._receive(report)
        except Exception:
            log.exception("a report of %s was not received", self._name)
            self.kill()

    def _write(self, pipe: Connection) -> None:
        """Thread: a pipe is full when the process hangs, and the event loop must not."""
        with contextlib.suppress(OSError):
            while (order := self._outbox.get()) is not None:
                pipe.send(order)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
