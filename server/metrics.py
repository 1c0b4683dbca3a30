"""Metrics for Prometheus: counted when requests and steps end, or read from the engine at each scrape."""

import functools
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine import STAGES, VERSION, Engine, GenerationParams, StepReport, Timings

from .limits import Limits

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20)
TOKENS = (64, 256, 1024, 4096, 8192, 16384, 32768, 65536)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
SIDES = (256, 512, 1024, 2048, 4096)
PHASES = (*STAGES[1:], "encode_image")
IMAGE_ROUTE = "/v1/images/generations"
IMAGE_STATUSES = (200, 400, 401, 429, 499, 500, 503, 507)


class Metrics:
    """The metrics of one application.

    Series with known labels exist from the start: `rate` and `increase` do not see the first count of a series that
    appears with it, such as the first error.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = functools.partial(Counter, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        self.responses = counter("sana_http_responses", "HTTP responses by route and status.", ["route", "status"])
        self.images = counter("sana_images", "Images generated.")
        self.pixels = counter("sana_pixels", "Pixels of generated images.")
        request_help = (
            "Seconds from admission to the last image of a request, by the side of a square with as many pixels."
        )
        self.requests = histogram("sana_request_seconds", request_help, ["size"], buckets=SECONDS)
        self.stages = histogram("sana_stage_seconds", "Seconds per image in each stage.", ["stage"], buckets=SECONDS)
        self.steps = histogram(
            "sana_step_seconds", "Device seconds per step, by phase.", ["phase"], buckets=STEP_SECONDS
        )
        self.tokens = histogram("sana_batch_tokens", "Tokens per forward pass of the transformer.", buckets=TOKENS)
        self.occupancy = histogram(
            "sana_batch_occupancy", "Share of the token budget that a batch uses, from 0 to 1.", buckets=SHARES
        )
        forwards_help = "Forward passes, by phase and whether a CUDA graph replayed them."
        self.forwards = counter("sana_forwards", forwards_help, ["phase", "graph"])
        self.padding = counter("sana_graph_padding_tokens", "Padding tokens in the buckets of CUDA graphs.")
        self.batch_images = histogram("sana_batch_images", "Images per batch.", buckets=IMAGES)
        self.lines = counter("sana_batch_api_lines", "Lines of batch files that are done, by result.", ["result"])
        gauge = functools.partial(Gauge, registry=self.registry)
        self.waiting_lines = gauge("sana_batch_api_waiting_lines", "Lines of batch files that are not done.")
        self.paused = gauge("sana_batch_api_paused", "1 while the work on batch files waits for storage, else 0.")
        self._create_series()

    def _create_series(self) -> None:
        for status in IMAGE_STATUSES:
            self.responses.labels(IMAGE_ROUTE, str(status))
        for side in SIDES:
            self.requests.labels(str(side))
        for stage in STAGES:
            self.stages.labels(stage)
        for phase in PHASES:
            self.steps.labels(phase)
            self.forwards.labels(phase, "yes")
            self.forwards.labels(phase, "no")
        for result in ("completed", "failed"):
            self.lines.labels(result)

    def watch(self, engine: Engine, limits: Limits) -> None:
        """Adds the statistics of the engine and the limits, read at each scrape."""
        self.registry.register(EngineCollector(engine, limits))

    def observe_step(self, report: StepReport) -> None:
        self.steps.labels(report.phase).observe(report.seconds)
        self.forwards.labels(report.phase, "yes").inc(report.forwards.replayed)
        self.forwards.labels(report.phase, "no").inc(report.forwards.launched)
        if report.tokens:
            self.tokens.observe(report.tokens)
            # One image may exceed the budget, which is 0 on a slow device: its batch counts as full.
            self.occupancy.observe(report.tokens / max(report.token_budget, report.tokens))
            self.batch_images.observe(report.images)
            self.padding.inc(max(0, report.forwards.graph_tokens - report.tokens))

    def observe_image(self, params: GenerationParams, timings: Timings) -> None:
        self.count_images(params, 1)
        for stage in STAGES:
            self.stages.labels(stage).observe(getattr(timings, stage))

    def count_images(self, params: GenerationParams, number: int | None = None) -> None:
        """Counts images without their latency, which is a matter of chance in the background. None: all `n`."""
        number = params.n if number is None else number
        self.images.inc(number)
        self.pixels.inc(number * params.width * params.height)

    def observe_request(self, params: GenerationParams, seconds: float) -> None:
        self.requests.labels(size_class(params)).observe(seconds)

    def count_response(self, route: str, status: int) -> None:
        self.responses.labels(route, str(status)).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """EngineStats as metrics, and the requests that the limits refused before they reached the engine."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits

    def collect(self) -> Iterator[Metric]:
        stats = self.engine.stats()
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        info = gauge("sana_info", "1, with what is served as labels.", labels=["version", "model", "device", "dtype"])
        if (model := self.engine.model) is not None:
            info.add_metric([VERSION, model.id, model.device, model.dtype], 1)
        yield info
        yield gauge("sana_ready", "1 if the engine is ready, else 0.", value=self.engine.ready)
        queue_help = "Predicted seconds until the busiest device has finished the work accepted so far."
        yield gauge("sana_queue_seconds", queue_help, value=stats.queue_seconds)
        limit_help = "Predicted seconds of accepted work beyond which requests are refused."
        yield gauge("sana_max_queue_seconds", limit_help, value=self.engine.config.max_queue_seconds)
        yield gauge("sana_queued_images", "Images waiting in the queue.", value=stats.queued_images)
        yield gauge(
            "sana_running_images", "Images of started requests that are not finished.", value=stats.running_images
        )
        rejected = counter("sana_rejected", "Requests refused, by reason.", labels=["reason"])
        for reason, count in {**stats.rejected, **self.limits.rejected}.items():
            rejected.add_metric([reason], count)
        yield rejected
        yield counter(
            "sana_cancelled", "Requests cancelled by their client or by their timeout.", value=stats.cancelled
        )
        yield counter("sana_retries", "Requests restarted because their engine process ended.", value=stats.retries)
        yield counter("sana_engine_restarts", "Engine processes restarted.", value=stats.restarts)
        yield counter(
            "sana_wasted_device_seconds",
            "Device seconds spent on images that were never delivered.",
            value=stats.wasted_seconds,
        )
        yield counter("sana_prompt_cache_hits", "Prompts found in the prompt cache.", value=stats.prompt_cache_hits)
        yield counter(
            "sana_prompt_cache_misses", "Prompts not found in the prompt cache.", value=stats.prompt_cache_misses
        )
        memory = gauge(
            "sana_device_memory_bytes", "Device memory in bytes held by each engine process.", labels=["worker"]
        )
        for worker, held in enumerate(stats.memory_bytes):
            memory.add_metric([str(worker)], held)
        yield memory
        limit = gauge(
            "sana_device_memory_limit_bytes", "Memory in bytes of the device of each engine process.", labels=["worker"]
        )
        for worker, total in enumerate(stats.memory_limit_bytes):
            limit.add_metric([str(worker)], total)
        yield limit


def size_class(params: GenerationParams) -> str:
    """The label of a size: the few values keep the number of series bounded."""
    pixels = params.width * params.height
    return str(next((side for side in SIDES if pixels <= side * side), SIDES[-1]))
