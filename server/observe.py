"""Metrics and traces of a request, taken from its events as they pass."""

import contextlib
import time
from collections.abc import AsyncGenerator

from fastapi import Request

from engine import Event, Finished, GenerationParams, Timings

from .metrics import Metrics
from .tracing import Traces


async def observe(events: AsyncGenerator[Event], params: GenerationParams, request: Request) -> AsyncGenerator[Event]:
    """The same events, counted. Closing this generator closes `events`."""
    metrics: Metrics = request.app.state.metrics
    traces: Traces = request.app.state.traces
    started, begun = time.time_ns(), time.monotonic()
    finished: list[Timings] = []
    failure: BaseException | None = None
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    finished.append(event.timings)
                    metrics.observe_image(params, event.timings)
                yield event
        metrics.observe_request(params, time.monotonic() - begun)
    except BaseException as error:
        failure = error
        raise
    finally:
        traces.record(request, params, started, finished, failure)
