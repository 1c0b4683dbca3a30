"""The batches that clients see: created, listed, cancelled. server/batches/queue.py works on them."""

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, case, func, insert, select, tuple_, update

from engine import InvalidParams

from .database import Database
from .schema import batches, storable, stored_id

ENDPOINTS = ("/v1/images/generations",)
WINDOW = re.compile(r"([1-9][0-9]{0,4})([mhd])")
UNITS = {"m": 60, "h": 3600, "d": 86400}
MAX_WINDOW_SECONDS = 30 * 86400
FINAL = ("completed", "failed", "expired", "cancelled")


class Jobs:
    """The batches of all keys; every method sees only those of `tenant`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, tenant: str, input_file_id: str, window: str, metadata: str | None, **values: Any) -> Row[Any]:
        """Queues a batch of the requests in a file.

        Args:
            metadata: a JSON object.
            values: endpoint, base_url and output_seconds, as in the schema.
        """
        batch_id = f"batch_{secrets.token_hex(12)}"
        with self._database.write() as connection:
            now = int(self._database.now(connection))
            connection.execute(
                insert(batches).values(
                    id=batch_id,
                    tenant=tenant,
                    input_file_id=input_file_id,
                    completion_window=window,
                    metadata=metadata,
                    status="validating",
                    created_at=now,
                    expires_at=now + window_seconds(window),
                    **values,
                )
            )
            return connection.execute(select(batches).where(batches.c.id == batch_id)).one()

    def find(self, tenant: str, batch_id: str) -> Row[Any] | None:
        with self._database.read() as connection:
            mine = (batches.c.id == stored_id(batch_id), batches.c.tenant == tenant)
            return connection.execute(select(batches).where(*mine)).one_or_none()

    def page(self, tenant: str, after: str | None, limit: int) -> tuple[list[Row[Any]], bool]:
        """At most `limit` batches after the batch `after`, the newest first, and whether there are more."""
        with self._database.read() as connection:
            query = select(batches).where(batches.c.tenant == tenant)
            if after is not None:
                last = select(batches.c.created_at, batches.c.id).where(batches.c.id == stored_id(after))
                start = connection.execute(last.where(batches.c.tenant == tenant)).one_or_none()
                if start is None:
                    return [], False
                query = query.where(tuple_(batches.c.created_at, batches.c.id) < tuple_(*start))
            query = query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit + 1)
            rows = list(connection.execute(query))
        return rows[:limit], len(rows) > limit

    def cancel(self, tenant: str, batch_id: str) -> None:
        """Starts to cancel a batch. One that is done, or already cancelling, stays as it is."""
        with self._database.write() as connection:
            now = int(self._database.now(connection))
            active = batches.c.status.in_(("validating", "in_progress"))
            mine = (batches.c.id == stored_id(batch_id), batches.c.tenant == tenant, active)
            connection.execute(update(batches).where(*mine).values(status="cancelling", cancelling_at=now))

    def waiting_lines(self) -> int:
        """Lines of all batches that are not done."""
        open_lines = batches.c.total - batches.c.completed - batches.c.failed
        query = select(func.coalesce(func.sum(case((batches.c.status == "in_progress", open_lines), else_=0)), 0))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())


def window_seconds(window: str) -> int:
    """Seconds of a completion window such as 24h. Raises InvalidParams."""
    match = WINDOW.fullmatch(window)
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= MAX_WINDOW_SECONDS:
        message = f"completion_window must be minutes, hours or days up to 30d, like 24h, got {window[:40]!r}"
        raise InvalidParams(message, "completion_window")
    return seconds


def check_metadata(metadata: object) -> str | None:
    """OpenAI's metadata as JSON. Raises InvalidParams."""
    if metadata is None:
        return None
    limits = "metadata must be an object of at most 16 texts of up to 512 characters, under keys of up to 64"
    if not isinstance(metadata, Mapping) or len(metadata) > 16:
        raise InvalidParams(limits, "metadata")
    for name, value in metadata.items():
        valid = isinstance(value, str) and len(value) <= 512 and 1 <= len(name) <= 64
        if not valid or not storable(name + value):
            raise InvalidParams(f"{limits}; {name[:64]!r} is not", "metadata")
    return json.dumps(metadata)
