"""The engine as the ingress sees it: requests go to an engine replica, and to another one if that dies or refuses."""

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from engine import (
    DeadlineExceeded,
    EngineConfig,
    EngineStats,
    EngineUnavailable,
    Event,
    Failed,
    GenerationFailed,
    GenerationParams,
    ModelInfo,
    QueueFull,
    SanaError,
    check_params,
)
from engine.client import REJECTION_REASONS
from engine.request import Request

log = logging.getLogger("sana.ray")
MAX_REFUSALS = 3
"""Maximum number of replicas that refuse a request before its client hears of it."""
MAX_DEATHS = 3
"""Number of replicas that end after they have started a request, upon which it counts as the cause."""
RETRY_SECONDS = 0.1
OTHERS_MAY_ACCEPT = (QueueFull, DeadlineExceeded, EngineUnavailable)


class RayEngine:
    """Client of the deployment `engine`, with the interface `engine.Engine`.

    A request that is generated again has the same seed, so its images are the same, and what its client has received
    is not sent again.
    """

    def __init__(self, config: EngineConfig, replicas: DeploymentHandle) -> None:
        self.config = config
        self.model: ModelInfo | None = None
        self.draining = False
        self._replicas = replicas
        self._requests: dict[str, Request] = {}
        self._rejected: Counter[str] = Counter()
        self._cancelled = self._retries = 0
        self._lost: asyncio.Task[ModelInfo] | None = None

    async def start(self) -> ModelInfo:
        """Waits until an engine replica has loaded the model."""
        self.model = await self._ask_for_model()
        return self.model

    async def stop(self) -> None:
        """Refuses further requests. The engine replicas belong to Ray Serve."""
        self.model, self.draining = None, True
        if self._lost is not None:
            self._lost.cancel()

    @property
    def ready(self) -> bool:
        """Whether an engine replica has answered since the last one was lost."""
        return self.model is not None and (self._lost is None or self._lost.done())

    async def generate(self, params: GenerationParams, request_id: str | None = None) -> AsyncGenerator[Event]:
        """Yields the events of one request, up to its last Finished. Closing the generator cancels the request.

        Raises what EngineClient.generate raises.
        """
        now = time.monotonic()
        deadline = None if params.timeout is None else now + params.timeout
        request = Request(request_id or uuid.uuid4().hex, params, 0.0, 0, now, deadline)
        self._requests[request.request_id] = request
        refused: list[str] = []
        try:
            if self.model is None:
                raise EngineUnavailable("the model is loading or the server is stopping; try again in a few seconds")
            check_params(params, self.model)
            while not request.done:
                async with contextlib.aclosing(self._try(request, refused)) as events:
                    async for event in events:
                        yield event
        except SanaError as error:
            request.failed = True
            if type(error) in REJECTION_REASONS and not request.started:
                self._rejected[REJECTION_REASONS[type(error)]] += 1
            raise
        finally:
            self._cancelled += not request.done
            del self._requests[request.request_id]

    async def _try(self, request: Request, refused: list[str]) -> AsyncGenerator[Event]:
        """Yields the new events of one try; without an error the request may be unfinished and can be tried again."""
        params = replace(request.params, timeout=remaining_seconds(request))
        # A further id for a further try: the replica of the first may still be generating it.
        unique_id = f"{request.request_id}/{uuid.uuid4().hex[:8]}"
        stream = self._replicas.options(stream=True).generate.remote(params, unique_id, tuple(refused))
        try:
            replica_id = await asyncio.wait_for(anext(stream), params.timeout)
            async for event in stream:
                if isinstance(event, Failed):
                    if not isinstance(event.error, OTHERS_MAY_ACCEPT) or replica_id in refused:
                        raise event.error
                    refused.append(replica_id)
                    if len(refused) == MAX_REFUSALS:
                        raise event.error
                    self._retries += request.started
                    return
                request.receive(replace(event, request_id=request.request_id))
                while not request.events.empty():
                    yield request.events.get_nowait()
        except TimeoutError:
            remaining_seconds(request)  # raises
        except (RayTaskError, TaskCancelledError):  # our own fault, and the client has left
            raise
        except DeploymentUnavailableError as error:
            raise EngineUnavailable("no engine replica can be started; try again later") from error
        except RayError as error:
            self._retries += 1
            self._look_for_another()
            request.reset()
            if request.crashes >= MAX_DEATHS:
                message = f"{request.crashes} engine replicas ended while generating this request"
                raise GenerationFailed(message) from error
            await asyncio.sleep(RETRY_SECONDS)  # Ray Serve may not know yet that the replica has ended
        finally:
            stream.cancel()

    def _look_for_another(self) -> None:
        """Makes the ingress not ready until an engine replica answers."""
        if self._lost is None or self._lost.done():
            self._lost = asyncio.create_task(self._ask_for_model())

    async def _ask_for_model(self) -> ModelInfo:
        """The model, once a replica is ready: Ray Serve waits for one."""
        while True:
            try:
                return await self._replicas.model.remote()
            except (RayError, DeploymentUnavailableError) as error:
                log.warning("engine replica lost: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def stats(self) -> EngineStats:
        """Figures of this ingress replica's requests; each engine replica exports its own as `ray_sana_...`."""
        started = [len(request.missing) for request in self._requests.values() if request.started]
        return EngineStats(
            queue_seconds=math.nan,
            queued_images=sum(len(request.missing) for request in self._requests.values()) - sum(started),
            running_images=sum(started),
            rejected=dict(self._rejected),
            cancelled=self._cancelled,
            retries=self._retries,
            restarts=0,
            wasted_seconds=0.0,
            prompt_cache_hits=0,
            prompt_cache_misses=0,
            memory_bytes=(),
            memory_limit_bytes=(),
        )


def remaining_seconds(request: Request) -> float | None:
    """Seconds until the request's deadline; None without one. Raises DeadlineExceeded once it has passed."""
    if request.deadline is None:
        return None
    seconds = request.deadline - time.monotonic()
    if seconds <= 0:
        raise DeadlineExceeded(f"the request did not finish within its timeout of {request.params.timeout:g} s")
    return seconds
