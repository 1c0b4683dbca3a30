"""The engine seen from the HTTP process: starts the engine process, sends requests, hands out events. Free of torch."""

import asyncio
import contextlib
import multiprocessing
import signal
import threading
import uuid
from collections.abc import AsyncGenerator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from .config import EngineConfig
from .errors import EngineUnavailable, InvalidParams, QueueFull
from .messages import Cancel, Ready, StartFailed, Stop, Submit
from .params import check_params
from .types import Event, Failed, Finished, GenerationParams, ModelInfo
from .worker import run_worker

STOP_SECONDS = 10.0


class EngineClient:
    """One engine process. Use `start`, then `generate` from any number of tasks of the same event loop, then `stop`."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.model: ModelInfo | None = None
        self._outstanding: dict[str, tuple[int, asyncio.Queue[Event]]] = {}
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._started: asyncio.Future[ModelInfo] | None = None

    async def start(self) -> ModelInfo:
        """Loads the model in a new process. Raises CheckpointError, DeviceError or EngineUnavailable."""
        loop = asyncio.get_running_loop()
        self._started = loop.create_future()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run_worker, args=(self.config, theirs), name="sana-engine", daemon=True)
        # Ctrl-C reaches the whole process group and is the parent's to handle: the child inherits this mask from birth
        resource_tracker.ensure_running()  # it would be started on the way, and lifts the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        threading.Thread(target=self._read, args=(self._pipe, loop), name="engine-events", daemon=True).start()
        try:
            self.model = await self._started
        except BaseException:
            await self.stop()
            raise
        return self.model

    @property
    def alive(self) -> bool:
        """The model is loaded and its process lives."""
        return self.model is not None and self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """Of the engine process."""
        return self._process.pid if self._process else None

    @property
    def queued_images(self) -> int:
        """Images accepted and not yet handed out."""
        return sum(images for images, _ in self._outstanding.values())

    async def generate(self, params: GenerationParams, request_id: str | None = None) -> AsyncGenerator[Event]:
        """Events of one request, ending after its last Finished. Closing the generator cancels the request.

        Raises InvalidParams, QueueFull, EngineUnavailable, or the error of a Failed event.
        """
        if self.model is None or self._pipe is None or not self.alive:
            raise EngineUnavailable("the engine is not running; try again in a few seconds")
        check_params(params, self.model)
        if params.n > self.config.max_queue:
            message = f"n is {params.n}, more than the {self.config.max_queue} images this server queues"
            raise InvalidParams(message, "n", "integer_above_max_value")
        if self.queued_images + params.n > self.config.max_queue:
            waiting = f"{self.queued_images} of at most {self.config.max_queue} images are waiting"
            raise QueueFull(f"{waiting}; try again later")
        request_id = request_id or uuid.uuid4().hex
        events: asyncio.Queue[Event] = asyncio.Queue()
        self._outstanding[request_id] = (params.n, events)
        finished = 0
        try:
            self._send(Submit(request_id, params))
            while finished < params.n:
                event = await events.get()
                if isinstance(event, Failed):
                    finished = params.n
                    raise event.error
                finished += isinstance(event, Finished)
                yield event
        finally:
            del self._outstanding[request_id]
            if finished < params.n and self.alive:
                with contextlib.suppress(EngineUnavailable):  # it has ended: nothing is left to cancel
                    self._send(Cancel(request_id))

    async def stop(self) -> None:
        """Ends the process; what it was doing fails with EngineUnavailable."""
        process, loaded = self._process, self.model is not None
        self._process = self.model = None
        if process is None:
            return
        self._fail_outstanding(Failed("", EngineUnavailable("the server is stopping")))
        if loaded:  # while it loads it reads no messages
            with contextlib.suppress(EngineUnavailable):
                self._send(Stop())
            await asyncio.to_thread(process.join, STOP_SECONDS)
        if process.is_alive():
            process.kill()
            await asyncio.to_thread(process.join)

    def _send(self, message: Submit | Cancel | Stop) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send(message)
        except OSError as error:
            raise EngineUnavailable("the engine process has ended") from error

    def _read(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Thread: carries what the process says into the event loop until either ends."""
        try:
            while True:
                message = pipe.recv()
                loop.call_soon_threadsafe(self._receive, message)
        except (EOFError, OSError):
            message = StartFailed(EngineUnavailable("the engine process ended without a word; see its log"))
        except RuntimeError:  # the event loop is closed: nobody is left to tell
            return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._receive, message)

    def _receive(self, message: Event | Ready | StartFailed) -> None:
        assert self._started is not None
        if isinstance(message, Ready):
            if not self._started.done():  # the caller may have given up waiting
                self._started.set_result(message.model)
        elif isinstance(message, StartFailed):
            if not self._started.done():
                self._started.set_exception(message.error)
            self._fail_outstanding(Failed("", EngineUnavailable("the engine process ended while it drew this picture")))
        elif message.request_id in self._outstanding:
            self._outstanding[message.request_id][1].put_nowait(message)

    def _fail_outstanding(self, failure: Failed) -> None:
        for _, events in self._outstanding.values():
            events.put_nowait(failure)
