"""Live servers with the demo model, shared by all tests that do not stop them: each start takes seconds."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from .batches.jsonl import BATCH_KEYS, client_of
from .live import ENVIRONMENT, LiveServer

MODEL = "demo"
SECONDS = 120.0
API_KEY = "sk-test"
POISON = Path(__file__).parent / "poison"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that queues ten seconds of work, so that one long request fills the queue."""
    log = tmp_path_factory.mktemp("server") / "log"
    aliases = ["--model-alias", "dall-e-3=demo", "--model-alias", "gpt-image-1=demo"]
    with LiveServer(log, "--model", MODEL, "--max-queue-seconds", "10", *aliases) as server:
        yield server
    assert server.status == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server set up by an operator, through its environment: any model name; two concurrent requests per key."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"{API_KEY}\n")
    variables = {
        "SANA_MODEL_ALIASES": "* dall-e-2=demo:b64_json dall-e-3=demo",
        "SANA_API_KEYS_FILE": str(folder / "keys"),
        "SANA_RESPONSE_FORMAT": "url",
        "SANA_STRICT_PARAMS": "true",
        "SANA_LOG_FORMAT": "json",
        "SANA_MAX_CONCURRENT": "2",
        "SANA_MAX_QUEUE_SECONDS": "600",  # on a busy machine two long requests are predicted to take minutes
    }
    environment = {**ENVIRONMENT, **variables}
    with LiveServer(folder / "log", "--model", MODEL, environment=environment) as server:
        yield server
    assert server.status == 0


@pytest.fixture(scope="session")
def roomy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that queues ten minutes of work. Tests may kill its engine, and the prompt `poison` kills it too."""
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{POISON}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    log = tmp_path_factory.mktemp("roomy") / "log"
    with LiveServer(log, "--model", MODEL, "--max-queue-seconds", "600", environment=environment) as server:
        yield server


@pytest.fixture(scope="session")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="session")
def batch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with batches for two keys."""
    folder = tmp_path_factory.mktemp("batches")
    keys = [flag for key in BATCH_KEYS for flag in ("--api-key", key)]
    with LiveServer(folder / "log", "--data", str(folder / "data"), *keys) as server:
        yield server
    assert server.status == 0
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture(scope="session")
def batch_client(batch_server: LiveServer) -> Iterator[openai.OpenAI]:
    with client_of(batch_server) as client:
        yield client
