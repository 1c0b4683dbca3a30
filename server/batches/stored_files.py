"""Files of the Batch API in the database: uploads in chunks, and output files, which are views of a batch's lines."""

import base64
import secrets
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, func, insert, select, tuple_, update

from ..responses import IMAGE_FIELD, PIECE_BYTES
from .database import Database
from .schema import batches, chunks, files, images, lines, stored_id

PAGE_LINES = 100
UPLOAD_SECONDS = 86_400
"""Time after which an upload that never ended counts as failed."""
READ_SECONDS = 600
"""Time that the content of a hidden file is kept, for downloads that have begun."""


class StoredFiles:
    """The files of all keys; every method sees only those of `tenant`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, tenant: str) -> str:
        """Creates a file that is being uploaded, and is invisible until `finish`. Returns its id."""
        file_id = f"file-{secrets.token_hex(12)}"
        with self._database.write() as connection:
            now = int(self._database.now(connection))
            values = dict(id=file_id, tenant=tenant, purpose="batch", filename="", bytes=0, status="uploading")
            connection.execute(insert(files).values(**values, created_at=now, expires_at=now + UPLOAD_SECONDS))
        return file_id

    def append(self, file_id: str, number: int, data: bytes) -> None:
        """Stores chunk `number` of an upload, from 0."""
        with self._database.write() as connection:
            connection.execute(insert(chunks).values(file_id=file_id, number=number, data=data))
            connection.execute(update(files).where(files.c.id == file_id).values(bytes=files.c.bytes + len(data)))

    def finish(self, file_id: str, filename: str, seconds: float) -> Row[Any]:
        """Makes an uploaded file visible for `seconds`."""
        with self._database.write() as connection:
            expires = files.c.created_at + int(seconds)
            values = dict(status="processed", filename=filename, expires_at=expires)
            connection.execute(update(files).where(files.c.id == file_id).values(**values))
            return connection.execute(select(files).where(files.c.id == file_id)).one()

    def discard(self, file_id: str) -> None:
        """Drops an upload that failed."""
        with self._database.write() as connection:
            gone = dict(status="deleted", expires_at=int(self._database.now(connection)))
            connection.execute(update(files).where(files.c.id == file_id).values(**gone))

    def find(self, tenant: str, file_id: str) -> Row[Any] | None:
        """The file, unless it is unknown, expired or another key's."""
        with self._database.read() as connection:
            alive = files.c.expires_at > self._database.now(connection)
            mine = (files.c.id == stored_id(file_id), files.c.tenant == tenant, files.c.status == "processed", alive)
            return connection.execute(select(files).where(*mine)).one_or_none()

    def delete(self, tenant: str, file_id: str) -> bool:
        """Hides the file at once; server/batches/retention.py deletes its content later. False if there is none."""
        with self._database.write() as connection:
            mine = (files.c.id == stored_id(file_id), files.c.tenant == tenant, files.c.status == "processed")
            gone = dict(status="deleted", expires_at=int(self._database.now(connection)) + READ_SECONDS)
            return connection.execute(update(files).where(*mine).values(**gone)).rowcount > 0

    def page(
        self, tenant: str, after: str | None, limit: int, descending: bool, purpose: str | None
    ) -> tuple[list[Row[Any]], bool]:
        """At most `limit` files after the file `after`, and whether there are more."""
        with self._database.read() as connection:
            alive = files.c.expires_at > self._database.now(connection)
            query = select(files).where(files.c.tenant == tenant, files.c.status == "processed", alive)
            if purpose is not None:
                query = query.where(files.c.purpose == stored_id(purpose))
            position = tuple_(files.c.created_at, files.c.id)
            if after is not None:
                last = select(files.c.created_at, files.c.id).where(
                    files.c.id == stored_id(after), files.c.tenant == tenant
                )
                start = connection.execute(last).one_or_none()
                if start is None:
                    return [], False
                query = query.where(position < tuple_(*start) if descending else position > tuple_(*start))
            columns = (files.c.created_at, files.c.id)
            query = query.order_by(*(column.desc() if descending else column for column in columns))
            rows = list(connection.execute(query.limit(limit + 1)))
        return rows[:limit], len(rows) > limit

    def content(self, file: Row[Any]) -> Iterator[bytes]:
        """The content in pieces, to be iterated in a thread. Memory is bounded by one image."""
        if file.batch_id is None:
            return self.upload_chunks(file.id)
        return self._output(file.batch_id, file.line_state)

    def upload_chunks(self, file_id: str) -> Iterator[bytes]:
        """The chunks of an upload in order."""
        number = 0
        while True:
            with self._database.read() as connection:
                query = select(chunks.c.data).where(chunks.c.file_id == file_id, chunks.c.number == number)
                data = connection.execute(query).scalar_one_or_none()
            if data is None:
                return
            yield data
            number += 1

    def image(self, name: str) -> bytes | None:
        """The image with this unguessable name, the end of its URL."""
        with self._database.read() as connection:
            return connection.execute(select(images.c.data).where(images.c.name == name)).scalar_one_or_none()

    def _output(self, batch_id: str, state: str) -> Iterator[bytes]:
        """The lines of an output or error file in the order of the input."""
        number = 0
        while True:
            with self._database.read() as connection:
                found = (lines.c.batch_id == batch_id, lines.c.state == state, lines.c.number > number)
                query = select(lines.c.number, lines.c.output).where(*found).order_by(lines.c.number)
                page = list(connection.execute(query.limit(PAGE_LINES)))
            for number, output in page:
                yield from self._line(batch_id, number, output)
            if len(page) < PAGE_LINES:
                return

    def _line(self, batch_id: str, number: int, output: bytes) -> Iterator[bytes]:
        """A line whose marks are replaced by the images in base64."""
        before, *after = output.split(IMAGE_FIELD)
        yield before
        for index, rest in enumerate(after):
            key = (images.c.batch_id == batch_id, images.c.number == number, images.c.image_index == index)
            with self._database.read() as connection:
                image = connection.execute(select(images.c.data).where(*key)).scalar_one()
            yield b'"b64_json":"'
            for start in range(0, len(image), PIECE_BYTES):
                yield base64.b64encode(image[start : start + PIECE_BYTES])
            yield b'"' + rest


def stored_bytes(database: Database) -> int:
    """Bytes of all uploads and of all batches' lines and images."""
    with database.read() as connection:
        uploads = select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.batch_id.is_(None))
        held = select(func.coalesce(func.sum(batches.c.stored_bytes), 0))
        return int(connection.execute(uploads).scalar_one()) + int(connection.execute(held).scalar_one())
