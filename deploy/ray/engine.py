"""The deployment `engine`: each replica has one device, and an EngineClient that keeps its engine process alive."""

import contextlib
from collections.abc import AsyncGenerator, Sequence

from ray import serve
from ray.serve import metrics

from engine import (
    EngineClient,
    EngineUnavailable,
    Event,
    Failed,
    GenerationParams,
    ModelInfo,
    SanaError,
    configure_logs,
)
from server.limits import Limits
from server.metrics import EngineCollector
from server.settings import ServerConfig


class EngineReplica:
    """One engine replica. It is ready, and gets requests, once its model is loaded."""

    async def __init__(self, config: ServerConfig) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        configure_logs(config.engine.log_level, config.engine.log_format)
        self._engine = EngineClient(config.engine)
        self._gauges: dict[str, metrics.Gauge] = {}
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        await self._engine.start()

    async def __del__(self) -> None:
        """Called by Ray Serve once the replica has no requests, or at the end of its grace period."""
        await self._engine.stop()

    async def model(self) -> ModelInfo:
        if self._engine.model is None:
            raise EngineUnavailable("the engine is stopping")
        return self._engine.model

    async def generate(
        self, params: GenerationParams, request_id: str, tried: Sequence[str]
    ) -> AsyncGenerator[str | Event]:
        """Yields the id of this replica, then the events of the request; an error is the event Failed.

        Args:
            tried: ids of the replicas that have refused the request, for the router.
        """
        yield self._replica_id
        try:
            async with contextlib.aclosing(self._engine.generate(params, request_id)) as events:
                async for event in events:
                    yield event
        except SanaError as error:  # as a value: Ray would log the traceback of every refused request
            yield Failed(request_id, error)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve; see scaling.py."""
        return {"queue_seconds": self._engine.stats().queue_seconds}

    def check_health(self) -> None:
        """Called by Ray Serve every health_check_period_s, and so also the time to export metrics.

        Raises EngineUnavailable, upon which Ray Serve replaces the replica, once no process can be started.
        """
        self._export()
        if not self._engine.usable:
            raise EngineUnavailable("the engine process has ended and cannot be restarted")

    def _export(self) -> None:
        """Sets Ray's gauges, `ray_sana_queue_seconds` and so on, to the engine's statistics."""
        for family in EngineCollector(self._engine, Limits(0, 0)).collect():  # the ingress has the limits
            for sample in family.samples:
                if sample.name not in self._gauges:
                    keys = tuple(sample.labels)
                    self._gauges[sample.name] = metrics.Gauge(sample.name, family.documentation, tag_keys=keys)
                self._gauges[sample.name].set(sample.value, tags=dict(sample.labels))
