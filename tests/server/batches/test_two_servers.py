"""Two servers on one PostgreSQL: one is killed, the database crashes, and the batch is complete all the same."""

import os
import signal
from pathlib import Path

import psycopg

from ..live import LiveServer
from ..test_load import await_true
from .jsonl import client_of, request_line, submit, wait
from .postgres import Postgres
from .test_survival import LINES, check_batch, completed, fields


def owners(postgres: Postgres) -> set[str]:
    with psycopg.connect(postgres.url) as connection:
        rows = connection.execute("SELECT DISTINCT owner FROM lines WHERE state = 'running'").fetchall()
    return {owner for (owner,) in rows}


def test_other_server_finishes_and_database_may_crash(postgres: Postgres, tmp_path: Path) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    flags = ("--database", postgres.url, "--log-level", "info")
    first, second = (LiveServer(tmp_path / f"log{i}", *flags) for i in range(2))  # both load at the same time
    with first, second, client_of(first, "any") as doomed, client_of(second, "any") as client:
        batch = submit(doomed, [request_line(str(i), **fields(i)) for i in range(LINES)])
        await_true(lambda: bool(owners(postgres)), 60)  # of the first server: the second looks for work once a second
        os.killpg(first.process.pid, signal.SIGKILL)
        first.wait()
        await_true(lambda: completed(client, batch.id) >= 3, 60)
        postgres.stop()
        second.logged("batches: paused")
        postgres.start()
        batch = wait(client, batch)
        assert batch.status == "completed"
        check_batch(client, second.url, batch.id)
        second.logged("batches: going on")
