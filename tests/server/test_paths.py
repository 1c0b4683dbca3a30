"""Paths as clients build them from a base URL with slashes too many, and what the 404 of a wrong one says."""

import httpx
import pytest

from .live import LiveServer

GENERATIONS = "/v1/images/generations"
BODY = {"prompt": "a cat", "size": "256x256", "num_inference_steps": 1}


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("/v1/models/", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1///models//", "/v1/models"),
        ("/v1/models/demo/", "/v1/models/demo"),
        ("/v1//models//demo", "/v1/models/demo"),
        ("//health/", "/health"),
        ("//", "/"),
        ("/static//style.css", "/static/style.css"),
        ("/v1/models?after=//", "/v1/models"),
    ],
)
def test_extra_slashes_served(server: LiveServer, http: httpx.Client, path: str, same: str) -> None:
    assert httpx.get(server.url + path).content == http.get(same).content


@pytest.mark.parametrize("path", ["/v1//images/generations", GENERATIONS + "/", "//v1/images//generations//"])
def test_extra_slashes_generate(server: LiveServer, path: str) -> None:
    assert httpx.post(server.url + path, json=BODY, timeout=60).status_code == 200
    assert f" POST {path} 200 " in server.logged(f" POST {path} 200 ")  # the log has what was sent


@pytest.mark.parametrize("model", ["org%2Fname", "%2Fweights%2F%2Fsana%2F", "org//name"])
def test_slash_of_model_id_kept(server: LiveServer, model: str) -> None:
    names = {"org%2Fname": "org/name", "org//name": "org/name"}
    error = httpx.get(f"{server.url}/v1/models/{model}").json()["error"]
    assert f"'{names.get(model, '/weights//sana/')}'" in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/images/generations",
        "/v1/v1/images/generations",
        "/v1/images",
        "/v1",
        "/openai/v2/models",
        "/",
        "/api/generate",
    ],
)
def test_unknown_url_names_base_url(server: LiveServer, path: str) -> None:
    response = httpx.request("GET" if path != "/" else "PUT", server.url + path + ("" if path != "/" else "x"))
    assert response.status_code == 404
    assert response.json()["error"]["message"].endswith(f"; set the client's base URL to {server.url}/v1")


def test_unknown_url_with_invalid_host_gets_404(server: LiveServer) -> None:
    for host in ("[", "a b", "x" * 3000):
        response = httpx.get(f"{server.url}/nope", headers={"host": host})
        assert response.status_code == 404
