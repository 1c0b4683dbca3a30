"""What servers share of the work on batches: leases, claims, results, and ends. Each method is a transaction.

A server holds a lease on the rows that it owns while its own row in `servers` is fresh. Another server may then take
them. A result counts only for the owner of its line, so a line has one result whatever a stalled server still sends.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from .database import Database, new_owner
from .schema import batches, files, images, lines, servers

LEASE_SECONDS = 15.0
HEARTBEAT_SECONDS = 4.0
SLICE = 1000
"""Lines that one transaction ends when a batch expires or is cancelled."""
UNFINISHED = {
    "cancelling": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
    "finalizing": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}


@dataclass(frozen=True)
class Line:
    """A claimed line of a batch, with what its generation needs to know of the batch."""

    batch_id: str
    number: int
    custom_id: str
    tenant: str
    endpoint: str
    base_url: str
    output_bytes: int
    body: bytes = field(repr=False)

    @property
    def request_id(self) -> str:
        """The id of the request in output, log and queue."""
        return f"batch_req_{self.batch_id.removeprefix('batch_')}_{self.number}"


@dataclass(frozen=True)
class Result:
    """What became of a line: a line of the output or error file, and its images.

    Args:
        size: bytes of the line with its images in base64.
        images: (name, image) each; the name of an image that is in the output line is None.
    """

    line: Line
    completed: bool
    output: bytes = field(repr=False)
    size: int
    images: Sequence[tuple[str | None, bytes]] = field(default=(), repr=False)


class Queue:
    """The queue as one server sees it.

    Args:
        kept_seconds: time that output files are kept unless the batch says otherwise.
    """

    def __init__(self, database: Database, kept_seconds: float) -> None:
        self._database = database
        self._kept_seconds = int(kept_seconds)
        self.owner = new_owner()
        if database.dialect == "sqlite":  # the folder is locked, so all other owners have ended
            with database.write() as connection:
                connection.execute(delete(servers))

    def renew(self) -> None:
        """Renews the leases of this server."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            renewed = connection.execute(update(servers).where(servers.c.id == self.owner).values(seen_at=now))
            if not renewed.rowcount:
                connection.execute(insert(servers).values(id=self.owner, seen_at=now))
            forgotten = servers.c.seen_at < now - 100 * LEASE_SECONDS
            connection.execute(delete(servers).where(forgotten))

    def claim_lines(self, limit: int) -> list[Line]:
        """Takes up to `limit` lines of one batch: of the key, and then the batch, whose last turn is longest ago."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            alive = self._alive(now)
            active = batches.c.status == "in_progress"
            turns = select(batches.c.tenant, func.max(batches.c.claimed_at).label("at")).where(active)
            turn = turns.group_by(batches.c.tenant).subquery()
            unfinished = batches.c.total > batches.c.completed + batches.c.failed
            query = select(batches).join(turn, turn.c.tenant == batches.c.tenant).where(active, unfinished)
            for batch in connection.execute(
                query.order_by(turn.c.at, batches.c.claimed_at, batches.c.created_at).limit(100)
            ).all():
                mine = lines.c.batch_id == batch.id
                # Not this server's own: it still works on them if it was only late to renew its lease.
                lapsed = (mine, lines.c.state == "running", lines.c.owner != self.owner, lines.c.owner.not_in(alive))
                taken = lock_lines(connection, limit, lines.c.body, *lapsed)
                taken += lock_lines(connection, limit - len(taken), lines.c.body, mine, lines.c.state == "pending")
                if not taken:
                    continue
                chosen = (mine, lines.c.number.in_([row.number for row in taken]))
                connection.execute(update(lines).where(*chosen).values(state="running", owner=self.owner))
                connection.execute(update(batches).where(batches.c.id == batch.id).values(claimed_at=now))
                shared = (batch.tenant, batch.endpoint, batch.base_url, batch.output_bytes)
                return [Line(batch.id, row.number, row.custom_id, *shared, row.body) for row in taken]
        return []

    def commit(self, results: Iterable[Result], released: Iterable[Line]) -> int:
        """Stores the results and gives the released lines back, in one transaction. Returns the results that counted.

        A result does not count if the line is no longer this server's.
        """
        counted = 0
        totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        with self._database.write() as connection:
            # Servers lock rows in the same order, so that none waits for another in a circle.
            for line in sorted(released, key=lambda line: (line.batch_id, line.number)):
                connection.execute(update(lines).where(*self._own(line)).values(state="pending", owner=None))
            for result in sorted(results, key=lambda result: (result.line.batch_id, result.line.number)):
                line = result.line
                state = "completed" if result.completed else "failed"
                values = dict(state=state, owner=None, body=None, output=result.output)
                if not connection.execute(update(lines).where(*self._own(line)).values(**values)).rowcount:
                    continue
                for index, (name, image) in enumerate(result.images):
                    key = dict(batch_id=line.batch_id, number=line.number, image_index=index)
                    connection.execute(insert(images).values(**key, name=name, data=image))
                stored = len(result.output) + sum(len(image) for _, image in result.images) - len(line.body)
                gained = {"stored_bytes": stored, state: 1}
                gained["output_bytes" if result.completed else "error_bytes"] = result.size
                for name, amount in gained.items():
                    totals[line.batch_id][name] += amount
                counted += 1
            for batch_id, gains in sorted(totals.items()):
                sums = {name: batches.c[name] + amount for name, amount in gains.items()}
                connection.execute(update(batches).where(batches.c.id == batch_id).values(**sums))
        return counted

    def release_strays(self, held: Iterable[Line]) -> None:
        """Gives back what this server owns and does not hold: a claim of which only the answer was lost."""
        known = {(line.batch_id, line.number) for line in held}
        active = select(batches.c.id).where(batches.c.status == "in_progress")
        mine = (lines.c.batch_id.in_(active), lines.c.state == "running", lines.c.owner == self.owner)
        with self._database.write() as connection:
            for batch_id, number in connection.execute(select(lines.c.batch_id, lines.c.number).where(*mine)).all():
                if (batch_id, number) not in known:
                    key = (lines.c.batch_id == batch_id, lines.c.number == number)
                    connection.execute(update(lines).where(*key).values(state="pending", owner=None))

    def leave(self) -> None:
        """Gives up all leases of this server."""
        with self._database.write() as connection:
            connection.execute(delete(servers).where(servers.c.id == self.owner))

    def stopped_batches(self, batch_ids: Iterable[str]) -> set[str]:
        """Those of the batches that generate no longer: cancelled, expired or gone."""
        wanted = set(batch_ids)
        with self._database.read() as connection:
            query = select(batches.c.id).where(batches.c.id.in_(wanted), batches.c.status == "in_progress")
            return wanted - set(connection.execute(query).scalars())

    def claim_validation(self) -> Row[Any] | None:
        """Takes a batch whose file is to be validated: of the key whose last turn is longest ago."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            free = or_(batches.c.owner.is_(None), batches.c.owner.not_in(self._alive(now)))
            others = batches.alias()
            turn = select(func.max(others.c.claimed_at)).where(others.c.tenant == batches.c.tenant).scalar_subquery()
            query = select(batches).where(batches.c.status == "validating", free).order_by(turn, batches.c.created_at)
            batch = connection.execute(query.limit(1).with_for_update(skip_locked=True)).one_or_none()
            if batch is not None:
                claimed = dict(owner=self.owner, claimed_at=now)
                connection.execute(update(batches).where(batches.c.id == batch.id).values(**claimed))
        return batch

    def advance(self) -> bool:
        """Ends batches: the expired, the cancelled, and those whose lines are done. Returns whether there is more."""
        more = False
        with self._database.write() as connection:
            now = int(self._database.now(connection))
            expired = (batches.c.status.in_(("in_progress", "validating")), batches.c.expires_at <= now)
            connection.execute(update(batches).where(*expired).values(status="finalizing", finalizing_at=now))
            done = (batches.c.status == "in_progress") & (batches.c.completed + batches.c.failed >= batches.c.total)
            query = select(batches).where(done | batches.c.status.in_(UNFINISHED)).order_by(batches.c.id)
            for batch in connection.execute(query.limit(10).with_for_update(skip_locked=True)).all():
                if batch.status in UNFINISHED and batch.in_progress_at is not None:
                    remaining = self._end_lines(connection, batch)
                    more |= remaining > 0
                    if remaining or self._running(connection, batch.id):
                        continue
                    batch = connection.execute(select(batches).where(batches.c.id == batch.id)).one()
                self._end(connection, batch, now)
        return more

    def _end_lines(self, connection: Connection, batch: Row[Any]) -> int:
        """Fails a slice of the lines that were not executed, and returns how many there may be left."""
        lapsed = or_(lines.c.state == "pending", lines.c.owner.not_in(self._alive(self._database.now(connection))))
        open_lines = (lines.c.batch_id == batch.id, lines.c.state.in_(("pending", "running")), lapsed)
        rows = lock_lines(connection, SLICE, func.length(lines.c.body).label("size"), *open_lines)
        size = freed = 0
        code, message = UNFINISHED[batch.status]
        for row in rows:
            entry = {
                "id": f"batch_req_{batch.id.removeprefix('batch_')}_{row.number}",
                "custom_id": row.custom_id,
                "response": None,
                "error": {"code": code, "message": message},
            }
            output = json.dumps(entry).encode() + b"\n"
            size += len(output)
            freed += len(output) - row.size
            key = (lines.c.batch_id == batch.id, lines.c.number == row.number)
            values = dict(state="failed", owner=None, body=None, output=output)
            connection.execute(update(lines).where(*key).values(**values))
        gained = dict(failed=batches.c.failed + len(rows), error_bytes=batches.c.error_bytes + size)
        gained["stored_bytes"] = batches.c.stored_bytes + freed
        connection.execute(update(batches).where(batches.c.id == batch.id).values(**gained))
        return len(rows)

    def _running(self, connection: Connection, batch_id: str) -> bool:
        query = select(lines.c.number).where(lines.c.batch_id == batch_id, lines.c.state == "running").limit(1)
        return connection.execute(query).first() is not None

    def _end(self, connection: Connection, batch: Row[Any], now: int) -> None:
        """Sets the final status, creates the files, and schedules the webhook."""
        status = {"cancelling": "cancelled", "finalizing": "expired"}.get(batch.status, "completed")
        values: dict[str, Any] = {"status": status, f"{status}_at": now, "owner": None, "notify_at": now}
        values["finalizing_at"] = batch.finalizing_at or now
        if batch.in_progress_at is None:  # ended while it was validated: its lines are incomplete
            values["total"] = 0
        for kind, state in (("output", "completed"), ("error", "failed")):
            if getattr(batch, state) and batch.in_progress_at is not None:
                file_id = f"file-{secrets.token_hex(12)}"
                seconds = batch.output_seconds or self._kept_seconds
                connection.execute(
                    insert(files).values(
                        id=file_id,
                        tenant=batch.tenant,
                        purpose="batch_output",
                        filename=f"{batch.id}_{kind}.jsonl",
                        bytes=getattr(batch, f"{kind}_bytes"),
                        status="processed",
                        created_at=now,
                        expires_at=now + seconds,
                        batch_id=batch.id,
                        line_state=state,
                    )
                )
                values[f"{kind}_file_id"] = file_id
        connection.execute(update(batches).where(batches.c.id == batch.id).values(**values))

    def _own(self, line: Line) -> tuple[Any, ...]:
        key = (lines.c.batch_id == line.batch_id, lines.c.number == line.number)
        return (*key, lines.c.owner == self.owner, lines.c.state == "running")

    def _alive(self, now: float) -> Any:
        """The servers whose leases are valid."""
        return select(servers.c.id).where(servers.c.seen_at > now - LEASE_SECONDS)


def lock_lines(connection: Connection, limit: int, what: Any, *conditions: Any) -> list[Row[Any]]:
    """The first lines that no other transaction holds, locked on PostgreSQL; SQLite has one writer at a time.

    Args:
        what: a column of the result beside number and custom_id.
    """
    if limit <= 0:
        return []
    query = select(lines.c.number, lines.c.custom_id, what).where(*conditions).order_by(lines.c.number)
    return list(connection.execute(query.limit(limit).with_for_update(skip_locked=True)))
