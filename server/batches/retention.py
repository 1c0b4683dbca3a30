"""Deletes files and batches by age and by bytes, in small transactions: the oldest first, and none that is in use."""

from collections import Counter

from sqlalchemy import delete, exists, func, select, update

from .database import Database
from .jobs import FINAL
from .schema import batches, chunks, files, images, lines
from .stored_files import READ_SECONDS, stored_bytes

SLICE = 100
CHUNK_SLICE = 16
"""Lines with their images, and chunks of uploads, that one transaction deletes."""
IN_USE = exists().where(batches.c.input_file_id == files.c.id, batches.c.status == "validating")
"""Whether a batch still reads the file, even one that its owner has deleted meanwhile."""


class Retention:
    """The limits of what the database holds.

    Args:
        max_age: seconds that batches are kept after their creation.
        max_bytes: maximum bytes of uploads, lines and images.
    """

    def __init__(self, database: Database, max_age: float, max_bytes: int) -> None:
        self._database = database
        self._max_age = max_age
        self._max_bytes = max_bytes

    def is_full(self) -> bool:
        """Whether nothing may be added. Raises BatchStoreUnavailable."""
        return not self.has_room(1)

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes may be added. Raises BatchStoreUnavailable."""
        return stored_bytes(self._database) + size <= self._max_bytes

    def sweep(self) -> None:
        """Deletes what is too old, or too much. Raises BatchStoreUnavailable."""
        self._expire()
        while self.is_full() and self._drop_file():
            self._delete_hidden()
        self._delete_hidden()
        self._delete_batches()
        self._database.reclaim_space()

    def _expire(self) -> None:
        with self._database.write() as connection:
            now = int(self._database.now(connection))
            expired = (files.c.expires_at <= now, files.c.status != "deleted")
            gone = dict(status="deleted", expires_at=now + READ_SECONDS)
            connection.execute(update(files).where(*expired).values(**gone))

    def _drop_file(self) -> bool:
        """Gives up the oldest file that no unfinished batch needs, of the key that holds most. False if there is none.

        So a key that fills the database loses its own files, not those of the others. Hidden files come first.
        """
        with self._database.write() as connection:
            now = int(self._database.now(connection))
            hidden = (files.c.status == "deleted", files.c.expires_at > now)
            if connection.execute(update(files).where(*hidden).values(expires_at=now)).rowcount:
                return True
            free = select(files.c.id).where(files.c.status == "processed", ~IN_USE)
            held: Counter[str] = Counter()
            for table, size in ((files, files.c.bytes), (batches, batches.c.stored_bytes)):
                sums = select(table.c.tenant, func.sum(size)).group_by(table.c.tenant)
                if table is files:
                    sums = sums.where(files.c.batch_id.is_(None))
                for tenant, amount in connection.execute(sums):
                    held[tenant] += int(amount)
            for tenant, _ in held.most_common():
                oldest = free.where(files.c.tenant == tenant).order_by(files.c.created_at, files.c.id).limit(1)
                file_id = connection.execute(oldest).scalar_one_or_none()
                if file_id is not None:
                    gone = dict(status="deleted", expires_at=now)
                    connection.execute(update(files).where(files.c.id == file_id).values(**gone))
                    return True
        return False

    def _delete_hidden(self) -> None:
        """Deletes the content of files that have been hidden long enough, and then the files."""
        with self._database.read() as connection:
            unread = files.c.expires_at <= self._database.now(connection)
            hidden = connection.execute(select(files).where(files.c.status == "deleted", unread, ~IN_USE)).all()
        for file in hidden:
            if file.batch_id is None:
                while self._delete_chunks(file.id):
                    pass
            else:
                while self._delete_lines(file.batch_id, file.line_state):
                    pass
            with self._database.write() as connection:
                connection.execute(delete(files).where(files.c.id == file.id))

    def _delete_chunks(self, file_id: str) -> int:
        with self._database.write() as connection:
            some = select(chunks.c.number).where(chunks.c.file_id == file_id).limit(CHUNK_SLICE)
            gone = delete(chunks).where(chunks.c.file_id == file_id, chunks.c.number.in_(some))
            return connection.execute(gone).rowcount

    def _delete_lines(self, batch_id: str, state: str | None) -> int:
        """Deletes a slice of the lines of one state, or of all, with their images. Returns how many."""
        mine = [lines.c.batch_id == batch_id] + ([] if state is None else [lines.c.state == state])
        with self._database.write() as connection:
            size = func.length(lines.c.output)
            rows = connection.execute(select(lines.c.number, size.label("size")).where(*mine).limit(SLICE)).all()
            numbers = [row.number for row in rows]
            shown = (images.c.batch_id == batch_id, images.c.number.in_(numbers))
            freed = sum(row.size or 0 for row in rows)
            freed += connection.execute(
                select(func.coalesce(func.sum(func.length(images.c.data)), 0)).where(*shown)
            ).scalar_one()
            connection.execute(delete(images).where(*shown))
            connection.execute(delete(lines).where(lines.c.batch_id == batch_id, lines.c.number.in_(numbers)))
            left = batches.c.stored_bytes - freed
            connection.execute(update(batches).where(batches.c.id == batch_id).values(stored_bytes=left))
        return len(rows)

    def _delete_batches(self) -> None:
        """Deletes old batches, with the files of their output."""
        with self._database.read() as connection:
            past = batches.c.created_at <= self._database.now(connection) - self._max_age
            old = connection.execute(select(batches.c.id).where(batches.c.status.in_(FINAL), past)).scalars().all()
            never_ran = (batches.c.status.in_(FINAL), batches.c.in_progress_at.is_(None), batches.c.stored_bytes > 0)
            unused = connection.execute(select(batches.c.id).where(*never_ran)).scalars().all()
        for batch_id in {*old, *unused}:
            while self._delete_lines(batch_id, None):
                pass
            with self._database.write() as connection:
                if batch_id in old:
                    connection.execute(delete(files).where(files.c.batch_id == batch_id))
                    connection.execute(delete(batches).where(batches.c.id == batch_id))
                else:
                    connection.execute(update(batches).where(batches.c.id == batch_id).values(stored_bytes=0))
