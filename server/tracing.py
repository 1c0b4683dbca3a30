"""OpenTelemetry: one trace per generation, a span per stage of each image. Needs the extra `otel`."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request

from engine import STAGES, VERSION, GenerationParams, SanaError, Timings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

EXPORT_SECONDS = 5  # for one attempt to reach the collector


class Traces(Protocol):
    """Destination of traces."""

    def record(
        self,
        request: Request,
        params: GenerationParams,
        started: int,
        images: Sequence[Timings],
        failure: BaseException | None,
    ) -> None:
        """Records one request. `started` is in nanoseconds since 1970; `failure` is the error that ended it, if any."""

    def close(self) -> None: ...


class NoTraces:
    """Traces are off."""

    def record(self, *generation: object) -> None:
        pass

    def close(self) -> None:
        pass


class OTLPTraces:
    """Traces sent to a collector over OTLP/HTTP, by a thread with a bounded queue; spans beyond it are dropped.

    Args:
        endpoint: URL of the collector, like http://127.0.0.1:4318.
    """

    def __init__(self, endpoint: str) -> None:
        self._provider = make_provider(endpoint)
        self._tracer = self._provider.get_tracer("sana-serve", VERSION)

    def record(
        self,
        request: Request,
        params: GenerationParams,
        started: int,
        images: Sequence[Timings],
        failure: BaseException | None,
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(dict(request.headers))
        span = self._tracer.start_span(
            f"{request.method} {request.url.path}",
            parent,
            SpanKind.SERVER,
            start_time=started,
            attributes={
                "sana.request_id": request.state.request_id,
                "sana.size": f"{params.width}x{params.height}",
                "sana.steps": params.num_inference_steps,
                "sana.images": params.n,
            },
        )
        inside = set_span_in_context(span)
        for index, timings in enumerate(images):
            moment = started
            for stage in STAGES:
                child = self._tracer.start_span(stage, inside, start_time=moment, attributes={"sana.image": index})
                moment += int(getattr(timings, stage) * 1e9)
                child.end(moment)
        if failure is not None:
            span.set_status(StatusCode.ERROR, type(failure).__name__)
        span.end(time.time_ns())

    def close(self) -> None:
        """Sends the remaining spans. Blocks for at most EXPORT_SECONDS."""
        self._provider.shutdown()


def make_provider(endpoint: str) -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SanaError("--otlp-endpoint needs OpenTelemetry: pip install 'sana-serve[otel]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "sana-serve", "service.version": VERSION}))
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
