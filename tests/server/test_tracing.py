"""Spans received by a collector on this machine."""

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest
from starlette.requests import Request

from engine import GenerationFailed, GenerationParams, SanaError, Timings
from server import tracing
from server.tracing import OTLPTraces

pytest.importorskip("opentelemetry.sdk")

PARENT = "0af7651916cd43dd8448eb211c80319c"
PARAMS = GenerationParams("a cat", 64, 96, 5, 4.5, 0, n=2)


class Collector(BaseHTTPRequestHandler):
    """An OTLP collector that stores the bodies it receives."""

    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Collector.bodies.clear()
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def record(endpoint: str, images: list[Timings], failure: BaseException | None) -> list[Any]:
    """The spans of one request, as the collector receives them."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    headers = [(b"traceparent", f"00-{PARENT}-b7ad6b7169203331-01".encode()), (b"host", b"localhost")]
    request = Request({"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": headers})
    request.state.request_id = "req_1"
    traces = OTLPTraces(endpoint + "/")
    traces.record(request, PARAMS, time.time_ns(), images, failure)
    traces.close()
    spans = []
    for body in Collector.bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    return spans


def test_spans_per_stage_join_caller_trace(endpoint: str) -> None:
    *stages, root = record(endpoint, [Timings(0.1, 0.2, 0.3, 0.4)] * 2, None)
    assert root.name == "POST /v1/images/generations"
    assert root.trace_id.hex() == PARENT
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert [span.name for span in stages] == ["queue", "encode", "denoise", "decode"] * 2
    assert all(span.parent_span_id == root.span_id for span in stages)
    seconds = [(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for span in stages[:4]]
    assert seconds == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert stages[1].start_time_unix_nano == stages[0].end_time_unix_nano
    attributes = {entry.key: entry.value for entry in root.attributes}
    assert attributes["sana.request_id"].string_value == "req_1"
    assert attributes["sana.size"].string_value == "64x96"
    assert "a cat" not in str(root)


def test_span_of_failed_request_has_error(endpoint: str) -> None:
    [root] = record(endpoint, [], GenerationFailed("x"))
    assert root.status.code == 2
    assert root.status.message == "GenerationFailed"


def test_tracing_without_extra_names_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SanaError, match=r"pip install 'sana-serve\[otel\]'"):
        tracing.make_provider("http://127.0.0.1:1")
