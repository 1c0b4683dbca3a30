"""The webhook that tells of a batch's end, signed as OpenAI signs: the official clients' `webhooks.unwrap` verifies it.

Sent at least once to the one address of --webhook-url: again after errors, with growing pauses, for about a day.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from typing import Any

import httpx2
from sqlalchemy import Row, select, update

from engine import SanaError

from .database import Database
from .schema import batches

log = logging.getLogger("sana.batches")
TIMEOUT_SECONDS = 10.0
FIRST_PAUSE, MAX_ATTEMPTS = 5.0, 15
"""Seconds until the second attempt, doubled each time up to two hours, and the number of attempts."""
MAX_PAUSE, OLDEST_SECONDS = 7200.0, 86400.0
SECRET_PREFIX = "whsec_"


class Webhook:
    """The webhook of one server.

    Args:
        secret: whsec_ and a key in base64, as OpenAI's dashboard shows it. Raises SanaError for another text.
    """

    def __init__(self, database: Database, url: str, secret: str) -> None:
        self._database = database
        self._url = url
        try:
            self._key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            self._key = b""
        if not secret.startswith(SECRET_PREFIX) or len(self._key) < 16:
            raise SanaError("--webhook-secret must be whsec_ and at least 16 bytes in base64: openssl rand -base64 32")

    def send_due(self) -> None:
        """Sends what is due, one batch after the other. Raises BatchStoreUnavailable."""
        while (batch := self._claim()) is not None:
            status = self._send(batch)
            if 200 <= status < 300:
                with self._database.write() as connection:
                    connection.execute(update(batches).where(batches.c.id == batch.id).values(notify_at=None))

    def _claim(self) -> Row[Any] | None:
        """A batch whose webhook is due, postponed to the next attempt, so that no other server sends it too."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            due = batches.c.notify_at.between(now - OLDEST_SECONDS, now)  # older: there was no webhook at that time
            query = select(batches).where(due).order_by(batches.c.notify_at).limit(1)
            batch = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if batch is not None:
                attempts = batch.notify_attempts + 1
                pause = min(FIRST_PAUSE * 2**batch.notify_attempts, MAX_PAUSE)
                following = None if attempts >= MAX_ATTEMPTS else now + pause
                values = dict(notify_at=following, notify_attempts=attempts)
                connection.execute(update(batches).where(batches.c.id == batch.id).values(**values))
        return batch

    def _send(self, batch: Row[Any]) -> int:
        """The status of the answer; 0 if there is none."""
        event_id = f"evt_{batch.id.removeprefix('batch_')}"  # the same at every attempt
        created = getattr(batch, f"{batch.status}_at")
        event = {"id": event_id, "object": "event", "created_at": created, "type": f"batch.{batch.status}"}
        body = json.dumps({**event, "data": {"id": batch.id}}).encode()
        headers = {"content-type": "application/json", **signature(self._key, event_id, int(time.time()), body)}
        try:
            status = httpx2.post(self._url, content=body, headers=headers, timeout=TIMEOUT_SECONDS).status_code
            outcome = f"status {status}"
        except httpx2.HTTPError as error:
            status, outcome = 0, type(error).__name__
        level = logging.INFO if 200 <= status < 300 else logging.WARNING
        log.log(level, "webhook %s of %s: %s", event["type"], batch.id, outcome)
        return status


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks, which OpenAI uses."""
    signed = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
