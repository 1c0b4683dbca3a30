"""`sana bench` against the live server."""

import re

import pytest

from server.bench import percentile
from server.cli import main

from .live import LiveServer, run_sana

FLAGS = ["--requests", "4", "--concurrency", "2", "--size", "64x64", "--steps", "4"]


def test_bench_reports_figures_and_settings(server: LiveServer) -> None:
    ended = run_sana("bench", server.url, *FLAGS)
    assert ended.returncode == 0, ended.stderr
    assert f"{server.url}: size 64x64, steps 4, 4 requests, 2 concurrent" in ended.stdout
    assert re.search(r"images/s +\d+\.\d\d \(4 in \d+\.\d s\)", ended.stdout)
    assert re.search(r"latency +p50 \d+\.\d{3}, p95 \d+\.\d{3}, p99 \d+\.\d{3} s", ended.stdout)


def test_bench_stream_measures_first_image(server: LiveServer) -> None:
    ended = run_sana("bench", server.url, *FLAGS, "--stream")
    assert ended.returncode == 0, ended.stderr
    assert "first image" in ended.stdout


def test_bench_counts_failures_by_reason(server: LiveServer) -> None:
    ended = run_sana("bench", server.url, "--requests", "2", "--size", "16x64")
    assert ended.returncode == 1
    assert "failed       2 x 400 width and height must be between 32" in ended.stdout


def test_bench_unreachable_server_no_traceback() -> None:
    ended = run_sana("bench", "http://127.0.0.1:9", "--requests", "1")
    assert ended.returncode == 1
    assert "failed       1 x ConnectError" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_bench_refuses_counts_below_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "http://127.0.0.1:9", "--requests", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_percentile_is_an_observed_value() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (50, 95, 99)] == [50, 95, 99]
    assert percentile([3.0], 99) == 3.0
