"""The webhook, received by a real HTTP server and verified by the official client."""

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import openai
import pytest
from sqlalchemy import update

from engine import SanaError
from server.batches.database import Database
from server.batches.schema import batches
from server.batches.webhook import FIRST_PAUSE, MAX_ATTEMPTS, Webhook

from .test_queue import Site

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123").decode()


class Receiver(HTTPServer):
    """Keeps what it receives; answers with the statuses of `answers`, then with 200."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, dict[str, str]]] = []
        self.answers: list[int] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((body, dict(self.headers.items())))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("location", self.server.url)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(Database(tmp_path))
    yield site
    site.database.close()


def make_due(site: Site) -> None:
    site.change(update(batches).where(batches.c.notify_at.is_not(None)).values(notify_at=time.time() - 60))


def test_official_client_verifies_event(site: Site, receiver: Receiver) -> None:
    batch_id = site.validated([""])  # fails, because it is empty
    webhook = Webhook(site.database, receiver.url, SECRET)
    webhook.send_due()
    webhook.send_due()
    ((body, headers),) = receiver.received
    client = openai.OpenAI(api_key="any", webhook_secret=SECRET)
    event = client.webhooks.unwrap(body, headers)
    assert event.type == "batch.failed"
    assert event.data.id == batch_id
    assert event.created_at == site.row(batch_id).failed_at
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers)


@pytest.mark.parametrize("status", [500, 404, 302])
def test_refused_event_sent_again_with_same_id(site: Site, receiver: Receiver, status: int) -> None:
    site.validated([""])
    receiver.answers = [status, status]
    webhook = Webhook(site.database, receiver.url, SECRET)
    for attempts in (1, 1, 2, 2, 3, 3):
        if len(receiver.received) < attempts:
            make_due(site)
        webhook.send_due()
        assert len(receiver.received) == attempts
    assert len({headers["webhook-id"] for _, headers in receiver.received}) == 1


def test_dead_address_given_up_after_growing_pauses(site: Site, receiver: Receiver) -> None:
    batch_id = site.validated([""])
    receiver.answers = [500] * MAX_ATTEMPTS
    webhook, pauses = Webhook(site.database, receiver.url, SECRET), []
    while site.row(batch_id).notify_at is not None:
        make_due(site)
        before = time.time()
        webhook.send_due()
        pauses.append((site.row(batch_id).notify_at or before) - before)
    assert len(receiver.received) == MAX_ATTEMPTS
    assert [round(pause, -1) for pause in pauses[2:6]] == [20, 40, 80, 160]
    assert pauses[0] == pytest.approx(FIRST_PAUSE, abs=2)


def test_address_that_refuses_connections_is_tried_later(site: Site) -> None:
    batch_id = site.validated([""])
    Webhook(site.database, "http://127.0.0.1:1/", SECRET).send_due()
    assert site.row(batch_id).notify_attempts == 1


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!", "secret", SECRET.removeprefix("whsec_")])
def test_malformed_secret_refused(site: Site, secret: str) -> None:
    with pytest.raises(SanaError, match="whsec_"):
        Webhook(site.database, "http://127.0.0.1:1/", secret)
