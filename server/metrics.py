"""What Prometheus reads at /metrics: counted as requests and steps end, and asked of the engine when it is read."""

import functools
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine import STAGES, EngineClient, GenerationParams, StepReport, Timings

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20)
TOKENS = (64, 256, 1024, 4096, 8192, 16384, 32768, 65536)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
SIDES = (256, 512, 1024, 2048, 4096)


class Metrics:
    """One set of series per application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        self.responses = counter("sana_http_responses", "Answers by route and status.", ["route", "status"])
        self.images = counter("sana_images", "Images drawn.")
        self.pixels = counter("sana_pixels", "Pixels drawn.")
        request_help = "From admission to the last image, by size: the side of the square that holds as many pixels."
        self.requests = histogram("sana_request_seconds", request_help, ["size"], buckets=SECONDS)
        self.stages = histogram("sana_stage_seconds", "Of an image, by stage.", ["stage"], buckets=SECONDS)
        self.steps = histogram("sana_step_seconds", "Of the device, by phase.", ["phase"], buckets=STEP_SECONDS)
        self.tokens = histogram("sana_batch_tokens", "Rows of a forward.", buckets=TOKENS)
        self.occupancy = histogram("sana_batch_occupancy", "Share of the token budget used.", buckets=SHARES)
        forwards_help = "Of the networks, by phase and whether a CUDA graph ran them."
        self.forwards = counter("sana_forwards", forwards_help, ["phase", "graph"])
        self.filling = counter("sana_graph_filling_tokens", "Rows of CUDA graphs beyond those of their batch.")
        self.batch_images = histogram("sana_batch_images", "Images in a forward.", buckets=IMAGES)

    def watch(self, engine: EngineClient) -> None:
        """Reads the engine's own figures whenever the metrics are read."""
        self.registry.register(EngineCollector(engine))

    def observe_step(self, report: StepReport) -> None:
        self.steps.labels(report.phase).observe(report.seconds)
        self.forwards.labels(report.phase, "yes").inc(report.forwards.replayed)
        self.forwards.labels(report.phase, "no").inc(report.forwards.launched)
        if report.tokens:
            self.tokens.observe(report.tokens)
            # a single image may exceed the budget, which is 0 on a slow device: it fills its step
            self.occupancy.observe(report.tokens / max(report.token_budget, report.tokens))
            self.batch_images.observe(report.images)
            self.filling.inc(max(0, report.forwards.graph_tokens - report.tokens))

    def observe_image(self, params: GenerationParams, timings: Timings) -> None:
        self.images.inc()
        self.pixels.inc(params.width * params.height)
        for stage in STAGES:
            self.stages.labels(stage).observe(getattr(timings, stage))

    def observe_request(self, params: GenerationParams, seconds: float) -> None:
        self.requests.labels(size_class(params)).observe(seconds)

    def count_response(self, route: str, status: int) -> None:
        self.responses.labels(route, str(status)).inc()

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """EngineStats as series."""

    def __init__(self, engine: EngineClient) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self.engine.stats()
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield gauge("sana_ready", "1 while the engine draws.", value=self.engine.ready)
        queue_help = "Predicted seconds until the busiest device has finished the work accepted so far."
        yield gauge("sana_queue_seconds", queue_help, value=stats.queue_seconds)
        yield gauge("sana_queued_images", "Accepted, not begun.", value=stats.queued_images)
        yield gauge("sana_running_images", "On the device.", value=stats.running_images)
        rejected = counter("sana_rejected", "Requests refused, by reason.", labels=["reason"])
        for reason, count in stats.rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        yield counter("sana_cancelled", "Requests given up by their client or timed out.", value=stats.cancelled)
        yield counter("sana_retries", "Requests begun again after an engine's end.", value=stats.retries)
        yield counter("sana_engine_restarts", "Engine processes replaced.", value=stats.restarts)
        yield counter("sana_wasted_device_seconds", "Spent on images nobody received.", value=stats.wasted_seconds)
        yield counter("sana_prompt_cache_hits", "Prompts found encoded.", value=stats.prompt_cache_hits)
        yield counter("sana_prompt_cache_misses", "Prompts encoded.", value=stats.prompt_cache_misses)
        memory = gauge("sana_device_memory_bytes", "Held by an engine process.", labels=["worker"])
        for worker, held in enumerate(stats.memory_bytes):
            memory.add_metric([str(worker)], held)
        yield memory


def size_class(params: GenerationParams) -> str:
    """A label of few values, whatever sizes clients ask for."""
    pixels = params.width * params.height
    return str(next((side for side in SIDES if pixels <= side * side), SIDES[-1]))
