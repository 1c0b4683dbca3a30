"""Client of the engine for the HTTP process: accepts requests, spreads them over engine processes, delivers events.

Free of torch. Accepted requests survive the end of their engine process.
"""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable

from .admission import admit
from .config import EngineConfig
from .costs import image_tokens, request_seconds
from .errors import DeadlineExceeded, EngineUnavailable, InvalidParams, QueueFull, RequestCancelled, SanaError
from .params import check_fits, check_params
from .replica import Replica
from .request import Request
from .stats import EngineStats, StepReport
from .types import Event, Failed, GenerationParams, ModelInfo

REJECTION_REASONS: dict[type[SanaError], str] = {
    QueueFull: "queue_full",
    DeadlineExceeded: "deadline",
    InvalidParams: "invalid",
    EngineUnavailable: "unavailable",
}
BACKGROUND_IMAGES = 128
"""Maximum accepted background images per device."""


class EngineClient:
    """Client of one engine process per device.

    Call `start`, then `generate` from any number of tasks of the same event loop, then `stop`.

    Args:
        on_step: called on the event loop after every step of every engine process.
        in_process: run the engine in threads of this process instead, for scripts and tests.
    """

    def __init__(
        self, config: EngineConfig, on_step: Callable[[StepReport], None] | None = None, in_process: bool = False
    ) -> None:
        self.config = config
        self.model: ModelInfo | None = None
        self.draining = False
        self._on_step = on_step or (lambda report: None)
        self._in_process = in_process
        self._replicas: list[Replica] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._requests: dict[str, Request] = {}
        self._idle = asyncio.Event()
        self._rejected = Counter(dict.fromkeys(REJECTION_REASONS.values(), 0))
        self._cancelled = 0

    async def start(self) -> ModelInfo:
        """Loads the model on every device. Raises CheckpointError, DeviceError or EngineUnavailable."""
        self._replicas = [
            Replica(self.config, index, self._on_step, self._reroute, self._in_process)
            for index in range(len(self.config.devices))
        ]
        self._tasks = [asyncio.create_task(replica.run()) for replica in self._replicas]
        try:
            first, *_ = await asyncio.gather(*(replica.started for replica in self._replicas))
        except BaseException:
            await self.stop()
            raise
        self.model = first.model
        return self.model

    @property
    def ready(self) -> bool:
        """Whether new requests are accepted and at least one engine process is ready to run them."""
        return self.model is not None and not self.draining and any(replica.ready for replica in self._replicas)

    @property
    def usable(self) -> bool:
        """Whether an engine process is ready or will be: a request may wait, but is not refused for want of one."""
        return any(replica.usable for replica in self._replicas)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the engine processes, in the order of the devices."""
        return tuple(replica.process.pid for replica in self._replicas if replica.process is not None)

    @property
    def queued_images(self) -> int:
        """Number of accepted images that are not finished, the running ones included."""
        return sum(len(request.missing) for request in self._requests.values())

    async def generate(self, params: GenerationParams, request_id: str | None = None) -> AsyncGenerator[Event]:
        """Yields the events of one request, up to its last Finished. Closing the generator cancels the request.

        Raises InvalidParams, QueueFull, DeadlineExceeded, EngineUnavailable, or the error of a Failed event.
        """
        try:
            request, replica = self._accept(params, request_id or uuid.uuid4().hex)
        except SanaError as error:
            self._rejected[REJECTION_REASONS[type(error)]] += 1
            raise
        self._requests[request.request_id] = request
        timer = self._watch_deadline(request)
        try:
            replica.add(request)
            while not (request.done and request.events.empty()):
                event = await request.events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
        finally:
            if timer is not None:
                timer.cancel()
            self._cancelled += not request.done
            self._forget(request)

    @property
    def background_room(self) -> bool:
        """Whether the devices would run out of background images soon: those accepted fill less than two steps each."""
        requests = [request for request in self._requests.values() if request.params.background]
        images = sum(len(request.missing) for request in requests)
        tokens = sum(len(request.missing) * request.tokens for request in requests)
        devices = len(self._replicas)
        return images < BACKGROUND_IMAGES * devices and tokens < 2 * self.config.max_batch_tokens * devices

    def abort(self, request_id: str) -> bool:
        """Cancels a request, queued or running, within a step: its generator raises RequestCancelled.

        Returns False if there is no such request.
        """
        request = self._requests.get(request_id)
        if request is None or request.done:
            return False
        self._cancelled += 1
        self._fail(request, RequestCancelled(f"request {request_id} was cancelled"))
        return True

    async def drain(self, grace_seconds: float) -> None:
        """Refuses new requests and waits for the accepted ones. After `grace_seconds` the rest fail."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            if self._requests:
                self._idle.clear()
                await asyncio.wait_for(self._idle.wait(), grace_seconds)
        self._fail_all()

    def kill(self) -> None:
        """Ends the engine processes at once, before `stop`; requests that are not done fail with EngineUnavailable."""
        self.draining = True
        self._fail_all()
        for replica, task in zip(self._replicas, self._tasks, strict=True):
            task.cancel()  # else it would start another process
            if replica.process is not None:
                replica.process.kill()

    async def stop(self) -> None:
        """Ends the engine processes; requests that are not done fail with EngineUnavailable."""
        self.draining = True
        self._fail_all()
        self.model = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stats(self) -> EngineStats:
        """Returns a snapshot of the engine."""
        steps = [replica.last_step for replica in self._replicas]
        running = [len(request.missing) for request in self._requests.values() if request.started]
        return EngineStats(
            queue_seconds=max((replica.seconds_left for replica in self._replicas), default=0.0),
            queued_images=self.queued_images - sum(running),
            running_images=sum(running),
            rejected=dict(self._rejected),
            cancelled=self._cancelled,
            retries=sum(replica.retries for replica in self._replicas),
            restarts=sum(replica.restarts for replica in self._replicas),
            wasted_seconds=sum(replica.wasted_seconds for replica in self._replicas),
            prompt_cache_hits=sum(step.prompt_cache_hits for step in steps if step is not None),
            prompt_cache_misses=sum(step.prompt_cache_misses for step in steps if step is not None),
            memory_bytes=tuple(step.memory_bytes if step is not None else 0 for step in steps),
            memory_limit_bytes=tuple(replica.memory_limit_bytes for replica in self._replicas),
        )

    def _accept(self, params: GenerationParams, request_id: str) -> tuple[Request, Replica]:
        """Returns the accepted request and the replica with the least work. Raises an error of REJECTION_REASONS."""
        if self.draining:
            raise EngineUnavailable("the server is stopping")
        replica = self._choose()
        loaded = replica.started.result()
        check_params(params, loaded.model)
        check_fits(params, loaded.model, loaded.memory)
        if request_id in self._requests:
            raise InvalidParams(f"request id {request_id} is in use by a running request; choose another id")
        seconds = request_seconds(params, loaded.model, replica.costs or loaded.costs)
        now, tokens = time.monotonic(), image_tokens(params, loaded.model)
        deadline = None if params.timeout is None else now + params.timeout
        request = Request(request_id, params, seconds, tokens, now, deadline)
        if not params.background:  # whose sender bounds what it sends
            admit(request, replica.interactive, self.config.max_queue_seconds)
        return request, replica

    def _choose(self) -> Replica:
        usable = [replica for replica in self._replicas if replica.usable]
        if self.model is None or not usable:
            raise EngineUnavailable("the engine is not running; try again in a few seconds")
        return min(usable, key=lambda replica: (not replica.ready, replica.seconds_left, len(replica.requests)))

    def _reroute(self, request: Request) -> None:
        """Moves a request from a replica whose process has ended to one with a running process, if there is any."""
        source = next(replica for replica in self._replicas if request.request_id in replica.requests)
        target = self._choose()
        if target is not source:
            source.remove(request)
            target.add(request)

    def _watch_deadline(self, request: Request) -> asyncio.TimerHandle | None:
        if request.deadline is None:
            return None
        error = DeadlineExceeded(f"the request did not finish within its timeout of {request.params.timeout:g} s")
        return asyncio.get_running_loop().call_at(request.deadline, self._expire, request, error)

    def _expire(self, request: Request, error: DeadlineExceeded) -> None:
        if not request.done:
            self._cancelled += 1
            self._fail(request, error)

    def _fail_all(self) -> None:
        for request in list(self._requests.values()):
            self._fail(request, EngineUnavailable("the server is stopping"))

    def _fail(self, request: Request, error: SanaError) -> None:
        """Sends the error to the caller and removes the request from the device."""
        request.receive(Failed(request.request_id, error))
        self._remove_from_replica(request)

    def _forget(self, request: Request) -> None:
        self._remove_from_replica(request)
        self._requests.pop(request.request_id, None)
        if not self._requests:
            self._idle.set()

    def _remove_from_replica(self, request: Request) -> None:
        for replica in self._replicas:
            if replica.requests.get(request.request_id) is request:
                replica.remove(request)
