"""/metrics, parsed as Prometheus parses it."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine import VERSION, EngineClient, EngineConfig, Forwards, GenerationParams, StepReport, Timings
from server.limits import Limits
from server.metrics import IMAGE_ROUTE, Metrics, size_class

SERIES = [
    "sana_http_responses",
    "sana_images",
    "sana_pixels",
    "sana_request_seconds",
    "sana_stage_seconds",
    "sana_step_seconds",
    "sana_batch_tokens",
    "sana_batch_occupancy",
    "sana_batch_images",
    "sana_forwards",
    "sana_graph_padding_tokens",
    "sana_info",
    "sana_ready",
    "sana_queue_seconds",
    "sana_max_queue_seconds",
    "sana_queued_images",
    "sana_running_images",
    "sana_rejected",
    "sana_cancelled",
    "sana_retries",
    "sana_engine_restarts",
    "sana_wasted_device_seconds",
    "sana_prompt_cache_hits",
    "sana_prompt_cache_misses",
    "sana_device_memory_bytes",
    "sana_device_memory_limit_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "sana_batch_api_lines",
    "sana_batch_api_waiting_lines",
    "sana_batch_api_paused",
]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(http: httpx.Client) -> Samples:
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(response.text)


def test_metrics_contain_every_series(http: httpx.Client) -> None:
    names = {family.name for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert set(SERIES) <= names


def test_image_counted_in_every_stage(http: httpx.Client) -> None:
    before = scrape(http)
    body = {"prompt": "a red circle", "size": "64x96", "num_inference_steps": 3, "n": 2}
    assert http.post("/v1/images/generations", json=body).status_code == 200
    after = scrape(http)

    def gained(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0)

    assert gained("sana_images_total") == 2
    assert gained("sana_pixels_total") == 2 * 64 * 96
    assert gained("sana_request_seconds_count", size="256") == 1
    for stage in ("queue", "encode", "denoise", "decode"):
        assert gained("sana_stage_seconds_count", stage=stage) == 2
    assert gained("sana_stage_seconds_sum", stage="denoise") > 0
    assert gained("sana_step_seconds_count", phase="denoise") >= 3
    assert gained("sana_batch_tokens_sum") > 0
    assert gained("sana_http_responses_total", route="/v1/images/generations", status="200") == 1
    assert after[("sana_ready", ())] == 1
    assert after[("sana_running_images", ())] == 0


def test_series_exist_before_first_count() -> None:
    """Otherwise `increase` misses the first error."""
    metrics = Metrics()
    metrics.watch(EngineClient(EngineConfig()), Limits(per_minute=0, concurrent=0))
    samples = parse(metrics.render().decode())
    for status in ("200", "429", "500", "503"):
        assert samples[("sana_http_responses_total", (("route", IMAGE_ROUTE), ("status", status)))] == 0
    for reason in ("queue_full", "deadline", "invalid", "unavailable", "rate_limit", "concurrency", "api_key"):
        assert samples[("sana_rejected_total", (("reason", reason),))] == 0
    for size in ("256", "512", "1024", "2048", "4096"):
        assert samples[("sana_request_seconds_count", (("size", size),))] == 0
    assert samples[("sana_engine_restarts_total", ())] == 0
    assert samples[("sana_max_queue_seconds", ())] == 60


def test_info_names_model_and_version(http: httpx.Client) -> None:
    [labels] = [dict(labels) for name, labels in scrape(http) if name == "sana_info"]
    assert labels == {"version": VERSION, "model": "demo", "device": "cpu", "dtype": "float32"}


def test_memory_is_below_limit(http: httpx.Client) -> None:
    samples = scrape(http)
    held, limit = (
        samples[(name, (("worker", "0"),))] for name in ("sana_device_memory_bytes", "sana_device_memory_limit_bytes")
    )
    assert 0 <= held < limit


def test_route_labels_bounded(http: httpx.Client) -> None:
    for path in ("/a", "/b", "/v1/models/x", "/v1/models/y", "/files/z"):
        http.get(path)
    routes = {dict(labels)["route"] for name, labels in scrape(http) if name == "sana_http_responses_total"}
    assert not routes & {"/a", "/b", "/v1/models/x", "/files/z"}
    assert {"unknown", "/files/{name:path}"} <= routes


@pytest.mark.parametrize(
    ("width", "height", "label"), [(32, 32, "256"), (256, 256, "256"), (256, 288, "512"), (4096, 4096, "4096")]
)
def test_size_labels_bounded(width: int, height: int, label: str) -> None:
    assert size_class(GenerationParams("a", width, height, 1, 1.0, 0)) == label


@pytest.mark.parametrize("budget", [0, 100])
def test_occupancy_is_one_beyond_token_budget(budget: int) -> None:
    metrics = Metrics()
    metrics.observe_step(StepReport(0, "denoise", 0.03, 512, budget, 0, 1, 1, 0, 0, 0))
    assert parse(metrics.render().decode())[("sana_batch_occupancy_sum", ())] == 1


def test_step_report_fills_histograms() -> None:
    metrics = Metrics()
    metrics.observe_step(StepReport(0, "denoise", 0.03, 512, 1024, 0, 4, 2, 0, 0, 0, Forwards(1, 0, 640)))
    metrics.observe_step(StepReport(0, "encode", 0.01, 0, 1024, 0, 1, 1, 0, 1, 0, Forwards(2, 1)))
    metrics.observe_image(GenerationParams("a", 256, 256, 1, 1.0, 0), Timings(1, 2, 3, 4))
    samples = parse(metrics.render().decode())
    assert samples[("sana_batch_tokens_count", ())] == 1
    assert samples[("sana_batch_occupancy_sum", ())] == 0.5
    assert samples[("sana_batch_images_sum", ())] == 4
    assert samples[("sana_forwards_total", (("graph", "yes"), ("phase", "denoise")))] == 1
    assert samples[("sana_forwards_total", (("graph", "yes"), ("phase", "encode")))] == 2
    assert samples[("sana_forwards_total", (("graph", "no"), ("phase", "encode")))] == 1
    assert samples[("sana_graph_padding_tokens_total", ())] == 128
    assert samples[("sana_step_seconds_count", (("phase", "encode"),))] == 1
    assert samples[("sana_stage_seconds_sum", (("stage", "decode"),))] == 4
    assert samples[("sana_request_seconds_bucket", (("le", "0.05"), ("size", "256")))] == 0
    metrics.observe_request(GenerationParams("a", 256, 256, 1, 1.0, 0), 0.01)
    samples = parse(metrics.render().decode())
    assert samples[("sana_request_seconds_bucket", (("le", "0.05"), ("size", "256")))] == 1
