"""Databases of both kinds."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.batches.database import Database

from .postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(
        prefix="sana-pg-", ignore_cleanup_errors=True
    ) as folder:  # a socket's path is short
        Path(folder).chmod(0o755)
        cluster = Postgres(Path(folder))
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Opens the same empty database again and again, as several servers do; SQLite once only."""
    opened: list[Database] = []
    place: str | Path = tmp_path / "data"
    if request.param == "postgresql":
        import psycopg

        place = request.getfixturevalue("postgres").url
        with psycopg.connect(str(place), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def open_again() -> Database:
        if request.param == "postgresql" or not opened:
            opened.append(Database(place))
        return opened[-1]

    yield open_again
    for database in opened:
        database.close()
