"""The Ray application in a cluster of its own on this machine, through Ray's proxy. Takes about a minute."""

import base64
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("ray", reason="needs the extra ray")

from benchmarks.ray_live import RayApplication, demo_config, serve_on_ray

IMAGES = "/v1/images/generations"
BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2, "seed": 7}
LONG = {"prompt": "a red circle", "size": "512x512", "num_inference_steps": 100, "n": 4, "stream": True}
SECONDS = 120.0
FREED_SECONDS = 15.0  # less than LONG takes


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayApplication]:
    folder = tmp_path_factory.mktemp("ray")
    config = demo_config(folder)
    config["applications"][0]["args"]["SANA_MAX_QUEUE_SECONDS"] = 1
    with serve_on_ray(config, folder) as running:
        running.wait_for(2)
        yield running


@pytest.fixture
def client(application: RayApplication) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=application.url, timeout=SECONDS) as opened:
        yield opened


def post(client: httpx2.Client, **changes: Any) -> httpx2.Response:
    return client.post(IMAGES, json=BODY | changes)


def test_image_has_one_request_id(client: httpx2.Client) -> None:
    response = client.post(IMAGES, json=BODY, headers={"x-request-id": "mine"})
    assert response.status_code == 200, response.text
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert base64.b64decode(response.json()["data"][0]["b64_json"]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [({"n": 0}, 400, "n"), ({"size": "9x9"}, 400, "size"), ({"model": "x"}, 404, "model")],
)
def test_errors_are_those_of_the_api(client: httpx2.Client, changes: dict[str, Any], status: int, param: str) -> None:
    response = post(client, **changes)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_image_behind_url_is_read_through_the_proxy(client: httpx2.Client, application: RayApplication) -> None:
    url = post(client, response_format="url").json()["data"][0]["url"]
    assert url.startswith(application.url)
    assert client.get(url).content.startswith(b"\x89PNG")


def test_full_queues_answer_429_until_clients_leave(client: httpx2.Client) -> None:
    """Two long streams fill both replicas, so each has started while the other runs: the proxy buffers neither."""
    with client.stream("POST", IMAGES, json=LONG) as first, client.stream("POST", IMAGES, json=LONG) as second:
        events = [stream.iter_lines() for stream in (first, second)]  # kept: one that is collected closes its response
        for lines in events:
            assert next(lines).startswith(": image 0 step")
        refused = post(client, size="512x512", num_inference_steps=100)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
    end = time.monotonic() + FREED_SECONDS
    while True:  # until both devices have noticed, which takes each a step
        with client.stream("POST", IMAGES, json=LONG) as first, client.stream("POST", IMAGES, json=LONG) as second:
            if {first.status_code, second.status_code} == {200}:
                return
        assert time.monotonic() < end, (first.status_code, second.status_code)


def test_downscaling_waits_for_accepted_requests(client: httpx2.Client, application: RayApplication) -> None:
    bodies = [{**BODY, "num_inference_steps": 60, "size": "256x256", "seed": seed} for seed in range(2)]
    responses: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda body=body: responses.append(client.post(IMAGES, json=body))) for body in bodies
    ]
    for thread in threads:
        thread.start()
    while not re.search(r"^sana_running_images 2", client.get("/metrics").text, re.M):
        pass
    application.engine["num_replicas"] = 1
    application.deploy()
    for thread in threads:
        thread.join()
    assert [response.status_code for response in responses] == [200, 200]
    application.wait_for(1)


def test_files_of_the_application_are_in_its_folder(application: RayApplication) -> None:
    assert list((Path(application.folder) / "files").glob("*.png"))
