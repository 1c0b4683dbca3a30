"""The programs of docs/clients.md, run as they are written there, and the requests of other clients."""

import asyncio
import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine import EngineConfig
from server.app import create_app
from server.settings import ServerConfig

from .live import ENVIRONMENT, ROOT, LiveServer
from .routes.test_operations import asgi_client

DOCUMENT = (ROOT / "docs" / "clients.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, flags=re.DOTALL | re.MULTILINE))
NODE = ROOT / "tests" / "clients"
SECONDS = 240


def blocks(section: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], flags=re.DOTALL)
    assert found
    return found


def run(folder: Path, program: str, server: LiveServer, *command: str) -> None:
    """Runs the program in `folder`, with this server instead of port 8000."""
    changed = program.replace("http://127.0.0.1:8000", server.url).replace('"unused"', '"sk-test"')
    environment = {**ENVIRONMENT, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # otherwise it downloads prices
    ended = subprocess.run(
        [*command, changed], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def png_files(folder: Path) -> list[str]:
    """Names of the PNG files."""
    files = sorted(folder.glob("*.png"))
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    return [file.name for file in files]


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (0, ["image.png"]),
        (1, ["image-0.png", "image-1.png", "image-2.png"]),
        (2, ["image.png", "preview-0.png", "preview-1.png", "preview-2.png"]),
    ],
)
def test_docs_python_programs(number: int, names: list[str], server: LiveServer, tmp_path: Path) -> None:
    run(tmp_path, blocks("Python", "python")[number], server, sys.executable, "-c")
    assert png_files(tmp_path) == names


def test_docs_python_edit(server: LiveServer, tmp_path: Path) -> None:
    run(tmp_path, blocks("Edits", "python")[0], server, sys.executable, "-W", "ignore::ResourceWarning", "-c")
    assert png_files(tmp_path) == ["edit.png", "image.png"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(not (NODE / "node_modules" / "openai").is_dir(), reason="needs npm ci in tests/clients")
def test_docs_node_edit(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    run(tmp_path, blocks("Edits", "js")[0], server, "node", "--input-type=module", "-e")
    assert png_files(tmp_path) == ["edit.png", "image.png"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(not (NODE / "node_modules" / "openai").is_dir(), reason="needs npm ci in tests/clients")
def test_docs_node_program(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    run(tmp_path, blocks("Node", "js")[0], server, "node", "--input-type=module", "-e")
    assert png_files(tmp_path) == ["image.png", "preview-0.png", "preview-1.png", "streamed.png"]


NODE_ERRORS = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "unused", maxRetries: 0 });
const caught = async (body) => client.images.generate(body).then(() => null, (error) => error);
const size = await caught({ prompt: "a", size: "65x16" });
const model = await caught({ prompt: "a", model: "org/name" });
const list = await client.models.list();
const { data, response } = await client.images.generate(
  { prompt: "a", size: "64x64", num_inference_steps: 1, n: 2 }).withResponse();
const got = [size.status, size.param, size.code, size.constructor.name, Boolean(size.requestID), model.status,
  model.code, list.data[0].id, data.data.length, data._request_id === response.headers.get("x-request-id")];
const right = [400, "size", "invalid_value", "BadRequestError", true, 404, "model_not_found", "demo", 2, true];
if (JSON.stringify(got) !== JSON.stringify(right)) throw new Error(JSON.stringify(got));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(not (NODE / "node_modules" / "openai").is_dir(), reason="needs npm ci in tests/clients")
def test_node_client_errors_models_and_ids(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    run(tmp_path, NODE_ERRORS, server, "node", "--input-type=module", "-e")


FETCH_EVENT_SOURCE = """
import { fetchEventSource } from "@microsoft/fetch-event-source";
Object.assign(globalThis, { window: globalThis, document: { addEventListener() {}, removeEventListener() {} } });
const types = [];
await fetchEventSource("http://127.0.0.1:8000/v1/images/generations", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ prompt: "a", size: "64x64", num_inference_steps: 4, n: 2, stream: true, partial_images: 1 }),
  openWhenHidden: true,
  onopen: async (response) => { if (response.status !== 200) throw new Error(await response.text()); },
  onmessage: (message) => { types.push(JSON.parse(message.data).type); },
  onclose: () => {},
  onerror: (error) => { throw error; },
});
const count = (end) => types.filter((type) => type.endsWith(end)).length;
if (types.length !== 4 || count("partial_image") !== 2 || count("completed") !== 2) throw new Error(types.join());
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(
    not (NODE / "node_modules" / "@microsoft" / "fetch-event-source").is_dir(), reason="needs npm ci in tests/clients"
)
def test_fetch_event_source_gets_only_events(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    run(tmp_path, FETCH_EVENT_SOURCE, server, "node", "--input-type=module", "-e")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_docs_curl_command(server: LiveServer, tmp_path: Path) -> None:
    run(tmp_path, blocks("curl", "sh")[0], server, "bash", "-euc")
    assert png_files(tmp_path) == ["image.png"]


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_docs_go_program(server: LiveServer, tmp_path: Path) -> None:
    program = tmp_path / "main.go"
    run(tmp_path, blocks("Go", "go")[0], server, "bash", "-euc", f'cat <<< "$0" > {program}; go run {program}')
    assert png_files(tmp_path) == ["image.png"]


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK")
def test_docs_java_program(server: LiveServer, tmp_path: Path) -> None:
    run(tmp_path, blocks("Java", "java")[0], server, "bash", "-euc", 'cat <<< "$0" > Image.java; java Image.java')
    assert png_files(tmp_path) == ["image.png"]


def test_docs_azure_program(guarded_server: LiveServer, tmp_path: Path) -> None:
    program = blocks("Azure OpenAI", "python")[0].replace('model="demo"', 'model="gpt-image-1"')
    run(tmp_path, program, guarded_server, sys.executable, "-c")
    assert png_files(tmp_path) == ["image.png"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/deployments/demo/images/generations?api-version=2024-02-01", 200),
        ("/openai/deployments/dall-e-3/images/generations", 200),
        ("/openai/v1/images/generations?api-version=preview", 200),
        ("/openai/deployments/org/name/images/generations", 404),
        ("/openai/deployments/images/generations", 404),
    ],
)
def test_azure_paths(http: httpx.Client, path: str, status: int) -> None:
    body = {"model": "demo", "prompt": "a", "size": "64x64", "num_inference_steps": 1}
    assert http.post(path, json=body).status_code == status


@pytest.mark.parametrize("kind", ["server", "guarded_server"], ids=["lenient", "strict"])
def test_docs_litellm_config_is_healthy(kind: str, request: pytest.FixtureRequest) -> None:
    """The proxy's own router and health checks, without its web server. A check adds `max_tokens` to the request."""
    pytest.importorskip("backoff", reason="needs backoff, as litellm[proxy] does")
    from litellm import Router
    from litellm.proxy.health_check import perform_health_check

    url = request.getfixturevalue(kind).url
    text = blocks("LiteLLM", "yaml")[0].replace("http://127.0.0.1:8000", url).replace("unused", "sk-test")
    healthy, unhealthy, *_ = asyncio.run(perform_health_check(Router(yaml.safe_load(text)["model_list"]).model_list))
    assert (len(healthy), unhealthy) == (1, [])


def test_docs_llama_swap_waits_for_ready() -> None:
    from server.cli import build_parser

    model = yaml.safe_load(blocks("llama-swap", "yaml")[0])["models"]["demo"]
    program, *arguments = model["cmd"].replace("${PORT}", "5800").split()
    assert program == "sana"
    assert build_parser().parse_args(arguments).port == 5800

    async def statuses() -> list[int]:  # without lifespan the model never loads
        async with asgi_client(create_app(ServerConfig(EngineConfig()))) as client:
            return [(await client.get(path)).status_code for path in ("/health", model["checkEndpoint"])]

    assert asyncio.run(statuses()) == [200, 503]


def test_docs_litellm_program(server: LiveServer, tmp_path: Path) -> None:
    run(tmp_path, blocks("LiteLLM", "python")[0], server, sys.executable, "-c")
    assert png_files(tmp_path) == ["image.png"]


def test_docs_langchain_program(guarded_server: LiveServer, tmp_path: Path) -> None:
    run(tmp_path, blocks("LangChain", "python")[0], guarded_server, sys.executable, "-c")
    assert png_files(tmp_path) == ["image.png"]


OPEN_WEBUI: list[dict[str, Any]] = [
    {"model": "demo", "size": "64x64", "response_format": "b64_json"},
    {"model": "demo", "response_format": "b64_json"},  # without a configured size
    {"model": "dall-e-3", "size": "64x64", "response_format": "b64_json", "n": 2, "steps": 2, "quality": "hd"},
    {"model": "gpt-image-1", "size": "auto"},  # it sends no format for this name
    {"model": "demo", "size": "64x64", "response_format": "url"},  # configured as an additional parameter
]


@pytest.mark.parametrize("fields", OPEN_WEBUI, ids=str)
def test_open_webui_requests(http: httpx.Client, fields: dict[str, Any]) -> None:
    """The body, the headers and the download of its engine `openai` (routers/images.py of open-webui)."""
    headers = {"authorization": "Bearer sk-any", "x-openwebui-user-name": "J%C3%BC R", "x-openwebui-user-role": "user"}
    body = {"prompt": "a red circle", "n": 1, "steps": 1, **fields}
    response = http.post("/v1/images/generations?api-version=2025-04-01", json=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["num_inference_steps"] == body["steps"]
    assert "x-ignored-params" not in response.headers
    images = response.json()["data"]
    assert len(images) == body["n"]
    for image in images:
        if fields.get("response_format") == "url":  # it prefers the URL, and sends the key with it
            fetched = httpx.get(image["url"], headers=headers)
            assert fetched.status_code == 200
            assert fetched.headers["content-type"].split("/")[0] == "image"
            file = fetched.content
        else:
            assert not image.get("url")
            assert "," not in image["b64_json"]  # it would read the part before a comma as a header
            file = base64.b64decode(image["b64_json"])
        assert file.startswith(b"\x89PNG")  # it always names the file .png


def test_open_webui_default_model_gets_404(http: httpx.Client) -> None:
    body = {"model": "dall-e-2", "prompt": "a cat", "n": 1, "size": "512x512", "response_format": "b64_json"}
    response = http.post("/v1/images/generations", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_docs_open_webui_settings_are_for_images() -> None:
    settings = re.findall(r"^([A-Z_]+)=", blocks("Open WebUI", "sh")[0], flags=re.MULTILINE)
    assert settings
    assert all(setting.startswith(("IMAGE", "ENABLE_IMAGE")) for setting in settings)


def test_docs_flags_exist() -> None:
    from server.cli import build_parser

    for flags in re.findall(r'ARGS="([^"]+)"', DOCUMENT):
        build_parser().parse_args(["serve", *flags.split()])
