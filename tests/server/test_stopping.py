"""Signals to a real server with accepted requests, as terminals, containers and service managers send them."""

import concurrent.futures
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.live import Server

from .conftest import MODEL
from .live import LiveServer, images_seen

REQUESTS = 12


def close_terminal(pid: int) -> None:
    """The kernel and the shell both send it to every process."""
    os.killpg(pid, signal.SIGHUP)
    os.killpg(pid, signal.SIGHUP)


def stop_as_systemd(pid: int) -> None:
    """Every process in any order, here the engine first, and SIGHUP after it with SendSIGHUP."""
    for engine in Server("", pid).engines():
        os.kill(engine, signal.SIGTERM)
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    os.killpg(pid, signal.SIGHUP)


def quit_under_supervisor(pid: int) -> None:
    """A supervisor passes on the signal that the whole group has received."""
    os.killpg(pid, signal.SIGQUIT)
    os.kill(pid, signal.SIGQUIT)


def post(server: LiveServer, steps: int = 4) -> httpx.Response:
    body = {"prompt": "a cat", "size": "256x256", "num_inference_steps": steps}
    return httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=120)


def accept(server: LiveServer, pool: concurrent.futures.Executor, count: int, steps: int = 4) -> list[
    concurrent.futures.Future[httpx.Response]
]:  # fmt: skip
    """Answers to come of requests that are all accepted."""
    answers = [pool.submit(post, server, steps) for _ in range(count)]
    end = time.monotonic() + 60
    while images_seen(server.url) < count:
        assert time.monotonic() < end
        time.sleep(0.01)
    return answers


@pytest.mark.parametrize("stop", [close_terminal, stop_as_systemd, quit_under_supervisor])
def test_accepted_requests_finish_whoever_is_signalled(tmp_path: Path, stop: Callable[[int], None]) -> None:
    flags = ["--grace-seconds", "60", "--max-queue-seconds", "600", "--drain-seconds", "2"]
    with LiveServer(tmp_path / "log", "--model", MODEL, *flags) as server:
        with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool, httpx.Client(base_url=server.url) as kept:
            kept.get("/health")
            answers = accept(server, pool, REQUESTS)
            stop(server.process.pid)
            signalled = time.monotonic()
            server.logged("stopping; accepted requests")
            ready, health = httpx.get(f"{server.url}/ready"), kept.get("/health")  # a new connection, and a kept one
            refused = post(server)
            assert [answer.result().status_code for answer in answers] == [200] * REQUESTS
        assert (ready.status_code, health.status_code, refused.status_code) == (503, 200, 503)
        assert int(refused.headers["retry-after"]) > 0
        assert {answer.headers["connection"] for answer in (ready, health, refused)} == {"close"}
        assert server.wait() == 0
        assert time.monotonic() - signalled >= 2
    log = (tmp_path / "log").read_text()
    assert "ERROR" not in log
    assert "Traceback" not in log


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    """Under nohup, so that a closed terminal does not even count as the first."""
    flags = ["--grace-seconds", "600", "--max-queue-seconds", "6000"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the server inherits
    try:
        server = LiveServer(tmp_path / "log", "--model", MODEL, *flags)
    finally:
        signal.signal(signal.SIGHUP, before)
    with server:
        host, port = server.url.removeprefix("http://").split(":")
        with concurrent.futures.ThreadPoolExecutor(2) as pool, socket.create_connection((host, int(port))) as silent:
            os.killpg(server.process.pid, signal.SIGHUP)
            answers = accept(server, pool, 2, steps=100)
            silent.sendall(b"POST /v1/images/generations HTTP/1.1\r\n")
            assert httpx.get(f"{server.url}/ready").status_code == 200
            os.killpg(server.process.pid, signal.SIGTERM)
            server.logged("stopping; accepted requests")
            time.sleep(1.2)  # signals within a second count as one
            signalled = time.monotonic()
            os.killpg(server.process.pid, signal.SIGINT)
            assert server.wait() == 128 + signal.SIGINT
            assert time.monotonic() - signalled < 5
            assert [answer.result().status_code for answer in answers] == [503, 503]
    log = (tmp_path / "log").read_text()
    assert "ERROR" not in log
    assert "Traceback" not in log
