"""Validates the file of a new batch and queues its lines, in bounded memory and in transactions of some lines each."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, func, insert, select, update

from .database import Database
from .input_lines import LineError, custom_id_of, split_lines
from .schema import batches, lines, servers
from .stored_files import StoredFiles

SLICE, SLICE_BYTES = 2000, 8 << 20
"""Lines of one transaction, and their bytes, which are in memory."""
MAX_LINES = 1_000_000
MAX_FILE_LINES = 2 * MAX_LINES  # blank ones included
MAX_ERRORS = 100
"""Errors that are listed; the rest of the file is not read."""


class LeaseLost(Exception):
    """The batch was cancelled or has expired, or another server validates it."""


def validate(
    database: Database, owner: str, batch: Row[Any], line_bytes: int, full: Callable[[], bool] = lambda: False
) -> None:
    """Queues the lines of a batch whose validation `owner` has claimed, or fails the batch with the errors by line.

    A validation that an earlier server began starts again. Raises BatchStoreUnavailable or LeaseLost.

    Args:
        line_bytes: maximum size of a line.
        full: whether the database may hold no more; the batch then fails, so that it leaves room for the others.
    """
    forget_lines(database, owner, batch)
    errors: list[dict[str, Any]] = []
    total = 0
    for rows in slices(StoredFiles(database), batch, line_bytes, errors):
        total += len(rows)
        if full():
            message = "The server holds as many bytes of files and batches as it may; delete some files."
            errors.append(error_object("storage_full", message, None, rows[0]["number"]))
            break
        with database.write() as connection:
            hold(connection, owner, batch)
            connection.execute(insert(lines), rows)
            stored = batches.c.stored_bytes + sum(len(row["body"]) for row in rows)
            connection.execute(update(batches).where(batches.c.id == batch.id).values(stored_bytes=stored))
    if not errors:
        with database.read() as connection:  # seconds for a million lines, in which others may write
            errors += duplicates(connection, batch)
    with database.write() as connection:
        hold(connection, owner, batch)
        now = int(database.now(connection))
        if not errors and not total:
            errors.append(
                error_object("empty_file", "The input file has no requests, or no longer exists.", None, None)
            )
        values: dict[str, Any] = {"status": "in_progress", "in_progress_at": now, "total": total}
        if errors:
            report = json.dumps({"object": "list", "data": errors})
            values = {"status": "failed", "failed_at": now, "errors": report, "notify_at": now}
        connection.execute(update(batches).where(batches.c.id == batch.id).values(**values, owner=None))


def slices(
    stored: StoredFiles, batch: Row[Any], line_bytes: int, errors: list[dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """The rows of the valid lines in slices. Appends to `errors`, and ends once there are MAX_ERRORS."""
    rows: list[dict[str, Any]] = []
    count = size = 0
    for number, line in split_lines(stored.upload_chunks(batch.input_file_id), line_bytes, MAX_FILE_LINES):
        count += 1
        try:
            if number > MAX_FILE_LINES:
                raise LineError("too_many_lines", f"A file must have at most {MAX_FILE_LINES} lines, blank or not.")
            if count > MAX_LINES:
                raise LineError("too_many_tasks", f"A batch must have at most {MAX_LINES} requests.")
            custom_id = custom_id_of(line, batch.endpoint, line_bytes)
        except LineError as error:
            errors.append(error_object(error.code, str(error), error.param, number))
            if len(errors) == MAX_ERRORS or count > MAX_LINES or number > MAX_FILE_LINES:
                return
            continue
        if errors:
            continue  # the batch has failed: only further errors count
        rows.append(dict(batch_id=batch.id, number=number, custom_id=custom_id, state="pending", body=line))
        size += len(line)
        if len(rows) == SLICE or size >= SLICE_BYTES:
            yield rows
            rows, size = [], 0
    if rows and not errors:
        yield rows


def duplicates(connection: Connection, batch: Row[Any]) -> list[dict[str, Any]]:
    """Errors for lines whose custom_id an earlier line has."""
    mine = lines.c.batch_id == batch.id
    repeated = select(lines.c.custom_id).where(mine).group_by(lines.c.custom_id).having(func.count() > 1)
    some = connection.execute(repeated.limit(MAX_ERRORS)).scalars().all()
    query = select(lines.c.number, lines.c.custom_id).where(mine, lines.c.custom_id.in_(some))
    seen: set[str] = set()
    errors: list[dict[str, Any]] = []
    for number, custom_id in connection.execute(query.order_by(lines.c.number).limit(2 * MAX_ERRORS)):
        if custom_id in seen:
            message = (
                f"The custom_id {custom_id[:100]!r} is also that of an earlier line; it must be unique in the batch."
            )
            errors.append(error_object("duplicate_custom_id", message, "custom_id", number))
        seen.add(custom_id)
    return errors[:MAX_ERRORS]


def forget_lines(database: Database, owner: str, batch: Row[Any]) -> None:
    """Deletes the lines of a validation that did not end."""
    while True:
        with database.write() as connection:
            hold(connection, owner, batch)
            some = select(lines.c.number).where(lines.c.batch_id == batch.id).limit(SLICE)
            gone = connection.execute(delete(lines).where(lines.c.batch_id == batch.id, lines.c.number.in_(some)))
            if not gone.rowcount:
                connection.execute(update(batches).where(batches.c.id == batch.id).values(stored_bytes=0))
                return


def hold(connection: Connection, owner: str, batch: Row[Any]) -> None:
    """Raises LeaseLost unless `owner` still validates the batch, which stays so until the transaction ends."""
    works = exists().where(servers.c.id == owner)  # else this server is stopping
    mine = (batches.c.id == batch.id, batches.c.status == "validating", batches.c.owner == owner, works)
    if connection.execute(select(batches.c.id).where(*mine).with_for_update()).one_or_none() is None:
        raise LeaseLost


def error_object(code: str, message: str, param: str | None, line: int | None) -> dict[str, Any]:
    """OpenAI's batch error."""
    return {"code": code, "line": line, "message": message, "param": param}
