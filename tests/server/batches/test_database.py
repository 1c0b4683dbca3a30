"""Opening the database: migrations, the lock of the folder, errors."""

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from engine import SanaError
from server.batches.database import Database
from server.batches.schema import metadata
from server.http_errors import BatchStoreUnavailable


def test_migrations_give_the_schema(open_database: Callable[[], Database]) -> None:
    with open_database().read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_commits_survive_power_cut(tmp_path: Path) -> None:
    """As SQLite promises for these settings: the log is synchronized at every commit."""
    database = Database(tmp_path)
    with database.read() as connection:
        names = ("journal_mode", "synchronous", "auto_vacuum")
        found = [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names]
    database.close()
    assert found == ["wal", 2, 2]


def test_folder_admits_one_server(tmp_path: Path) -> None:
    first = Database(tmp_path / "data")
    with pytest.raises(SanaError, match="in use by another server"):
        Database(tmp_path / "data")
    first.close()
    Database(tmp_path / "data").close()


def test_newer_schema_refused(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(SanaError, match="newer version"):
        Database(tmp_path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("postgresql://nobody:secret@127.0.0.1:1/none", "cannot open the database"),
        ("nonsense", "must be like postgresql://"),
        ("mysql://a@b/c", "must be like postgresql://"),
    ],
)
def test_unusable_url_named_without_password(place: str, words: str) -> None:
    with pytest.raises(SanaError, match=words) as caught:
        Database(place)
    assert "secret" not in str(caught.value)


def test_folder_that_cannot_be_created_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SanaError, match="cannot use --data"):
        Database(tmp_path / "file" / "data")


def test_closed_database_unavailable(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.close()
    with pytest.raises(BatchStoreUnavailable), database.read():
        pass
