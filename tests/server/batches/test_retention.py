"""What is deleted, by age and by bytes, on both databases."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from server.batches.database import Database
from server.batches.queue import Result
from server.batches.retention import Retention
from server.batches.schema import batches, chunks, files, images, lines
from server.batches.stored_files import READ_SECONDS, stored_bytes

from .jsonl import request_line
from .test_queue import Site

AGE = 1000.0


@pytest.fixture
def site(open_database: Callable[[], Database]) -> Site:
    return Site(open_database())


def finished(site: Site, images_bytes: int = 100) -> str:
    """The id of a finished batch of one image."""
    batch_id = site.validated([request_line("a")])
    (line,) = site.queue.claim_lines(1)
    site.queue.commit([Result(line, True, b'{"b64_json":"@"}', 20, [(None, b"x" * images_bytes)])], [])
    site.queue.advance()
    return batch_id


def counts(site: Site) -> dict[str, int]:
    with site.database.read() as connection:
        tables = (files, chunks, batches, lines, images)
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
        }


def test_deleted_file_content_gone_once_downloads_have_ended(site: Site) -> None:
    batch_id = finished(site)
    row = site.row(batch_id)
    assert counts(site) == {"files": 2, "chunks": 1, "batches": 1, "lines": 1, "images": 1}
    for file_id in (row.input_file_id, row.output_file_id):
        found = site.files.find("", file_id)
        assert found is not None
        content = b"".join(site.files.content(found))
        assert site.files.delete("", file_id)
        Retention(site.database, AGE, 1 << 40).sweep()
        assert site.files.find("", file_id) is None
        assert b"".join(site.files.content(found)) == content != b""  # for a download that had begun
    site.change(update(files).values(expires_at=files.c.expires_at - READ_SECONDS))
    Retention(site.database, AGE, 1 << 40).sweep()
    assert counts(site) == {"files": 0, "chunks": 0, "batches": 1, "lines": 0, "images": 0}
    assert stored_bytes(site.database) == 0
    assert site.row(batch_id).status == "completed"


def test_expired_files_and_old_batches_deleted(site: Site) -> None:
    finished(site)
    waiting = site.validated([request_line("b")])
    Retention(site.database, AGE, 1 << 40).sweep()
    assert counts(site)["files"] == 3
    site.change(update(files).values(expires_at=1))
    site.change(update(batches).values(created_at=1))
    retention = Retention(site.database, AGE, 1 << 40)
    retention.sweep()
    site.change(update(files).values(expires_at=files.c.expires_at - READ_SECONDS))
    retention.sweep()
    assert counts(site) == {"files": 0, "chunks": 0, "batches": 1, "lines": 1, "images": 0}
    assert site.row(waiting).status == "in_progress"  # its lines are its own, and it is not done


def test_oldest_files_deleted_beyond_bytes(site: Site) -> None:
    old, new = finished(site, 5000), finished(site, 5000)
    site.change(update(files).where(files.c.batch_id == old).values(created_at=1))
    retention = Retention(site.database, AGE, 6000)
    assert retention.is_full()
    retention.sweep()
    assert not retention.is_full()
    assert site.files.find("", site.row(old).output_file_id) is None
    assert site.files.find("", site.row(new).output_file_id) is not None


def test_full_database_drops_files_of_the_key_that_holds_most(site: Site) -> None:
    small = site.create([request_line("a")], tenant="small")
    site.files.delete("small", site.create([request_line("hidden" * 50)], tenant="small").input_file_id)
    large = [site.create([request_line("b" * 3000)], tenant="large") for _ in range(3)]
    site.change(update(batches).values(status="failed"))  # so that nothing needs the files
    site.change(update(files).where(files.c.id == small.input_file_id).values(created_at=1))
    retention = Retention(site.database, AGE, 7000)
    retention.sweep()
    assert not retention.is_full()
    assert site.files.find("small", small.input_file_id) is not None
    kept = [site.files.find("large", batch.input_file_id) is not None for batch in large]
    assert sum(kept) == 2
    with site.database.read() as connection:
        assert not connection.execute(select(files).where(files.c.status == "deleted")).all()  # went first


def test_file_of_batch_to_validate_kept(site: Site) -> None:
    batch = site.create([request_line("a" * 500)])
    retention = Retention(site.database, AGE, 10)
    retention.sweep()
    assert retention.is_full()
    assert site.files.find("", batch.input_file_id) is not None
    site.files.delete("", batch.input_file_id)
    retention.sweep()
    assert counts(site)["chunks"] == 1  # hidden from its owner, and not from the batch


def test_lines_of_failed_batch_deleted(site: Site) -> None:
    batch_id = site.validated([request_line("a"), request_line("a")])
    assert counts(site)["lines"] == 2
    Retention(site.database, AGE, 1 << 40).sweep()
    assert (counts(site)["lines"], site.row(batch_id).status, site.row(batch_id).stored_bytes) == (0, "failed", 0)


def test_sqlite_file_shrinks(tmp_path: Path) -> None:
    site = Site(Database(tmp_path))
    file_id = site.files.begin("")
    for number in range(8):
        site.files.append(file_id, number, b"x" * (1 << 20))
    site.files.discard(file_id)
    Retention(site.database, AGE, 1 << 40).sweep()
    with site.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    site.database.close()
    assert pages * 4096 < 1 << 20
