"""The queue on both databases: validation, claims, leases, results, ends."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Row, delete, select, update

from server.batches.database import Database
from server.batches.jobs import Jobs
from server.batches.queue import LEASE_SECONDS, SLICE, Line, Queue, Result
from server.batches.schema import batches, images, lines, servers
from server.batches.stored_files import StoredFiles
from server.batches.validation import MAX_ERRORS, LeaseLost, slices, validate

from .jsonl import ENDPOINT, request_line

KEPT = 86400.0
LINE_BYTES = 100_000
CHUNK = 40_000


class Site:
    """One server's view of the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.files, self.jobs, self.queue = StoredFiles(database), Jobs(database), Queue(database, KEPT)
        self.queue.renew()

    def create(self, content: list[str], tenant: str = "") -> Row[Any]:
        """A batch of these lines, not yet validated."""
        file_id = self.files.begin(tenant)
        for number, start in enumerate(range(0, len(text := "\n".join(content).encode()), CHUNK)):
            self.files.append(file_id, number, text[start : start + CHUNK])
        self.files.finish(file_id, "a.jsonl", KEPT)
        return self.jobs.create(tenant, file_id, "24h", None, endpoint=ENDPOINT, base_url="http://a")

    def validated(self, content: list[str], tenant: str = "") -> str:
        """The id of a batch of these lines that was validated."""
        batch = self.create(content, tenant)
        claimed = self.queue.claim_validation()
        assert claimed is not None
        assert claimed.id == batch.id
        validate(self.database, self.queue.owner, claimed, LINE_BYTES)
        return str(batch.id)

    def row(self, batch_id: str) -> Row[Any]:
        with self.database.read() as connection:
            return connection.execute(select(batches).where(batches.c.id == batch_id)).one()

    def change(self, statement: Any) -> None:
        with self.database.write() as connection:
            connection.execute(statement)

    def go_silent(self) -> None:
        """Ends the leases of this server as its silence would."""
        seen = servers.c.seen_at - LEASE_SECONDS - 1
        self.change(update(servers).where(servers.c.id == self.queue.owner).values(seen_at=seen))


@pytest.fixture
def site(open_database: Callable[[], Database]) -> Site:
    return Site(open_database())


@pytest.fixture
def other(site: Site, open_database: Callable[[], Database]) -> Site:
    """A second server. On SQLite it is a second queue of the same process, since the folder admits one server."""
    database, owner = open_database(), site.queue.owner
    second = Site(database)
    if database.dialect == "sqlite":  # the new queue has declared the first one dead
        site.queue.owner = owner
        site.queue.renew()
    return second


def done(line: Line, images: tuple[tuple[str | None, bytes], ...] = ()) -> Result:
    output = line.custom_id.encode() + b"\n"
    return Result(line, True, output, len(output), images)


def numbered(count: int) -> list[str]:
    return [request_line(f"c{i}") for i in range(count)]


def test_validated_batch_has_all_lines(site: Site) -> None:
    batch_id = site.validated(["", *numbered(10_000), ""])  # a query that compares all pairs would take minutes
    row = site.row(batch_id)
    assert (row.status, row.total, row.errors, row.owner) == ("in_progress", 10_000, None, None)
    with site.database.read() as connection:
        found = connection.execute(select(lines.c.number).order_by(lines.c.number)).scalars().all()
    assert list(found) == list(range(2, 10_002))


def test_bad_lines_fail_batch_with_line_numbers(site: Site) -> None:
    wrong_url = json.dumps({**json.loads(request_line("u")), "url": "/v1/embeddings"})
    no_body = json.dumps({"custom_id": "n", "method": "POST", "url": ENDPOINT})
    batch_id = site.validated([request_line("a"), "no json", wrong_url, request_line("b"), no_body])
    row = site.row(batch_id)
    errors = json.loads(row.errors)["data"]
    assert row.status == "failed"
    assert [(error["line"], error["code"]) for error in errors] == [
        (2, "invalid_json_line"),
        (3, "url_mismatch"),
        (5, "missing_required_parameter"),
    ]
    assert site.queue.claim_lines(10) == []


def test_duplicate_custom_ids_named_by_later_line(site: Site) -> None:
    row = site.row(site.validated([request_line(name) for name in ("a", "b", "a", "b", "a")]))
    errors = json.loads(row.errors)["data"]
    assert [(error["line"], error["code"]) for error in errors] == [(k, "duplicate_custom_id") for k in (3, 4, 5)]


def test_error_list_bounded_and_empty_file_refused(site: Site) -> None:
    errors = json.loads(site.row(site.validated(["x"] * 500)).errors)["data"]
    assert len(errors) == MAX_ERRORS
    (error,) = json.loads(site.row(site.validated(["", " "])).errors)["data"]
    assert (error["code"], error["line"]) == ("empty_file", None)


def test_validation_of_dead_server_starts_again(site: Site, other: Site) -> None:
    batch = site.create(numbered(10))
    first = site.queue.claim_validation()
    assert first is not None
    assert other.queue.claim_validation() is None
    site.change(lines.insert().values(batch_id=batch.id, number=1, custom_id="c0", state="pending", body=b"{}"))
    site.go_silent()
    second = other.queue.claim_validation()
    assert second is not None
    with pytest.raises(LeaseLost):
        validate(site.database, site.queue.owner, first, LINE_BYTES)
    validate(other.database, other.queue.owner, second, LINE_BYTES)
    assert (site.row(batch.id).status, site.row(batch.id).total) == ("in_progress", 10)


def test_validation_takes_turns_by_key(site: Site) -> None:
    """A key that queues many files delays another by one of them."""
    for name in ("a", "b", "c"):
        site.create([request_line(name)], tenant="many")
    site.create([request_line("d")], tenant="one")
    order = []
    while (batch := site.queue.claim_validation()) is not None:
        order.append(batch.tenant)
        validate(site.database, site.queue.owner, batch, LINE_BYTES)
    assert sorted(order) == ["many", "many", "many", "one"]
    assert "one" in order[:2]


def test_validation_beyond_the_bytes_fails_that_batch(site: Site) -> None:
    site.create(numbered(10))
    batch = site.queue.claim_validation()
    assert batch is not None
    validate(site.database, site.queue.owner, batch, LINE_BYTES, lambda: True)
    failed = site.row(batch.id)
    assert (failed.status, json.loads(failed.errors)["data"][0]["code"]) == ("failed", "storage_full")


def test_slices_bounded_by_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.batches.validation.SLICE_BYTES", 1000)
    batch = site.create([request_line("x" * 400 + str(i)) for i in range(5)])
    sizes = [len(rows) for rows in slices(StoredFiles(site.database), batch, LINE_BYTES, [])]
    assert max(sizes) < 5
    assert sum(sizes) == 5


def test_lease_never_held_by_two(site: Site, other: Site) -> None:
    """Two servers claim everything at the same time: each line has one owner, and none is left."""
    site.validated(numbered(400))
    claims: dict[str, list[int]] = {}
    both = threading.Barrier(2)

    def claim_all(one: Site) -> None:
        both.wait()
        mine = claims[one.queue.owner] = []
        empty = 0
        while empty < 3:  # a claim finds nothing while the other holds the next rows for a moment
            found = one.queue.claim_lines(7)
            mine += [line.number for line in found]
            empty = 0 if found else empty + 1

    threads = [threading.Thread(target=claim_all, args=(one,)) for one in (site, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = claims.values()
    if site.database.dialect != "sqlite":  # its lock may go to the same thread each time
        assert first
        assert second
    assert sorted(first + second) == list(range(1, 401))


def test_lapsed_lease_taken_and_late_result_dropped(site: Site, other: Site) -> None:
    batch_id = site.validated(numbered(3))
    held = site.queue.claim_lines(3)
    assert other.queue.claim_lines(3) == []
    site.go_silent()
    taken = other.queue.claim_lines(2)
    assert [line.number for line in taken] == [1, 2]
    site.queue.renew()  # it was only stalled; its third line is still its own
    assert site.queue.commit([done(line, ((None, b"late"),)) for line in held], []) == 1
    assert other.queue.commit([done(line) for line in taken], []) == 2
    assert other.queue.commit([done(line) for line in taken], []) == 0
    row = site.row(batch_id)
    assert (row.completed, row.output_bytes) == (3, 9)
    with site.database.read() as connection:
        assert connection.execute(select(images.c.number)).scalars().all() == [3]


def test_released_and_left_lines_claimable(site: Site, other: Site) -> None:
    site.validated(numbered(4))
    first = site.queue.claim_lines(2)
    site.queue.commit([], first[:1])
    assert [line.number for line in other.queue.claim_lines(1)] == [1]
    site.queue.leave()
    assert [line.number for line in other.queue.claim_lines(4)] == [2, 3, 4]


def test_late_server_keeps_own_lines_and_returns_strays(site: Site) -> None:
    """After an outage it neither takes its own lines twice, nor forgets those whose claim it never heard of."""
    site.validated(numbered(3))
    held = site.queue.claim_lines(1)
    site.queue.claim_lines(1)  # the answer was lost
    site.go_silent()
    assert [line.number for line in site.queue.claim_lines(3)] == [3]
    site.queue.release_strays(held)
    assert [line.number for line in site.queue.claim_lines(3)] == [2, 3]


def test_keys_and_batches_take_turns(site: Site) -> None:
    """A key with two batches gets as many lines as a key with one."""
    owners = {site.validated(numbered(20), tenant): tenant for tenant in ("a", "a", "b")}
    turns = [site.queue.claim_lines(1)[0] for _ in range(12)]
    assert [owners[line.batch_id] for line in turns].count("b") == 6
    assert sorted([line.batch_id for line in turns].count(batch_id) for batch_id in owners) == [3, 3, 6]


def test_batch_completes_with_its_last_result(site: Site) -> None:
    batch_id = site.validated(numbered(2))
    first, second = site.queue.claim_lines(2)
    error = Result(second, False, b"error\n", 6)
    site.queue.commit([done(first, ((None, b"x" * 10),))], [])
    site.queue.advance()
    assert site.row(batch_id).status == "in_progress"
    site.queue.commit([error], [])
    site.queue.advance()
    row = site.row(batch_id)
    assert (row.status, row.completed, row.failed, row.completed_at is None) == ("completed", 1, 1, False)
    output = site.files.find("", row.output_file_id)
    errors = site.files.find("", row.error_file_id)
    assert output is not None
    assert errors is not None
    assert b"".join(site.files.content(output)) == b"c0\n"
    assert b"".join(site.files.content(errors)) == b"error\n"
    assert row.notify_at is not None


def test_cancelled_batch_keeps_results_and_lists_others(site: Site) -> None:
    batch_id = site.validated(numbered(SLICE + 5))
    running = site.queue.claim_lines(2)
    site.jobs.cancel("", batch_id)
    assert site.queue.stopped_batches([batch_id]) == {batch_id}
    assert site.queue.claim_lines(5) == []
    assert site.queue.advance()  # a slice; the running lines are left alone
    site.queue.commit([done(running[0])], [running[1]])
    while site.queue.advance():
        pass
    site.queue.advance()
    row = site.row(batch_id)
    assert (row.status, row.completed, row.failed) == ("cancelled", 1, SLICE + 4)
    file = site.files.find("", row.error_file_id)
    assert file is not None
    content = b"".join(site.files.content(file))
    assert len(content) == file.bytes
    entries = [json.loads(line) for line in content.splitlines()]
    assert {entry["error"]["code"] for entry in entries} == {"batch_cancelled"}
    assert {entry["custom_id"] for entry in entries} == {f"c{i}" for i in range(1, SLICE + 5)}


def test_expired_batch_keeps_results(site: Site) -> None:
    batch_id = site.validated(numbered(3))
    (line,) = site.queue.claim_lines(1)
    site.queue.commit([done(line)], [])
    site.change(update(batches).values(expires_at=1))
    for _ in range(3):
        site.queue.advance()
    row = site.row(batch_id)
    assert (row.status, row.completed, row.failed, bool(row.expired_at)) == ("expired", 1, 2, True)
    file = site.files.find("", row.error_file_id)
    assert file is not None
    codes = {json.loads(line)["error"]["code"] for line in b"".join(site.files.content(file)).splitlines()}
    assert codes == {"batch_expired"}


def test_batch_cancelled_while_validating_has_no_files(site: Site) -> None:
    batch = site.create(numbered(3))
    claimed = site.queue.claim_validation()
    assert claimed is not None
    site.jobs.cancel("", batch.id)
    with pytest.raises(LeaseLost):
        validate(site.database, site.queue.owner, claimed, LINE_BYTES)
    site.queue.advance()
    row = site.row(batch.id)
    assert (row.status, row.total, row.output_file_id, row.error_file_id) == ("cancelled", 0, None, None)


def test_forgotten_server_rows_deleted(site: Site) -> None:
    site.change(servers.insert().values(id="old", seen_at=1.0))
    site.queue.renew()
    with site.database.read() as connection:
        assert connection.execute(select(servers.c.id)).scalars().all() == [site.queue.owner]
    site.change(delete(servers))
