"""The database of the queue: SQLite in a folder for one server, PostgreSQL for several."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, select, text

from engine import SanaError

from ..http_errors import BatchStoreUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x53414E41  # any number that other programs do not lock in the same database
BUSY_SECONDS = 30.0
CLOCKS = {
    "sqlite": text("SELECT (julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())::double precision"),
}
OUTAGES = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError)


class Database:
    """Connections to the queue's database, whose schema is up to date.

    Args:
        place: a folder for SQLite, or a URL postgresql://...

    Raises SanaError if it cannot be opened.
    """

    def __init__(self, place: str | Path) -> None:
        self._closed = False
        self._lock = lock_folder(place) if isinstance(place, Path) else None
        try:
            self._engine = open_sqlite(place) if isinstance(place, Path) else open_postgresql(place)
            self.dialect = self._engine.dialect.name
            self._reader = self._engine.execution_options(reads=True)
            self._migrate()
        except (exc.SQLAlchemyError, OSError) as error:
            self._unlock()
            where = f" in {place}" if isinstance(place, Path) else ""  # a URL may hold a password
            raise SanaError(f"cannot open the database of batches{where}: {reason_of(error)}") from error
        except SanaError:
            self._unlock()
            raise

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed at the end. Raises BatchStoreUnavailable; then nothing of it is stored."""
        self._check_open()
        with outages(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to read with. Raises BatchStoreUnavailable."""
        self._check_open()
        with outages(), self._reader.connect() as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """Seconds since 1970 by the database's clock, which all servers share."""
        return float(connection.execute(CLOCKS[self.dialect]).scalar_one())

    def reclaim_space(self) -> None:
        """Returns some of the space of deleted rows to the disk. PostgreSQL does so by itself."""
        if self.dialect == "sqlite":
            with self.read() as connection:
                # Not `execute`: Python steps a statement without columns once, and each step frees one page.
                connection.connection.cursor().executescript("PRAGMA incremental_vacuum(4096)")

    def close(self) -> None:
        """Closes all connections. Threads that still work end at their next transaction, with BatchStoreUnavailable."""
        self._closed = True
        self._engine.dispose()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BatchStoreUnavailable("the server is stopping")

    def _migrate(self) -> None:
        """Brings the schema up to date; one server at a time."""
        config = alembic.config.Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self._engine.begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(select(text(f"pg_advisory_xact_lock({MIGRATION_LOCK})")))
            config.attributes["connection"] = connection
            try:
                alembic.command.upgrade(config, "head")
            except alembic.util.CommandError as error:
                raise SanaError(f"the database of batches belongs to a newer version of sana-serve: {error}") from None


def open_sqlite(folder: Path) -> Engine:
    engine = create_engine(f"sqlite:///{folder / 'batches.sqlite3'}", connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a committed line survives a power cut

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A read outside of a transaction neither waits for writers nor keeps SQLite's log from being emptied. A
        # transaction writes from its start: a later change from reading to writing could fail as busy.
        if not connection.get_execution_options().get("reads"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def open_postgresql(url: str) -> Engine:
    if not url.startswith(("postgresql://", "postgres://")):
        raise SanaError("--database must be like postgresql://user@host/name")  # not quoted: it may hold a password
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise SanaError("--database postgresql://... needs psycopg: pip install 'sana-serve[postgres]'") from None
    settings = {
        "connect_timeout": 5,
        "options": "-c statement_timeout=60s -c idle_in_transaction_session_timeout=60s",
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    try:
        parsed = make_url(url).set(drivername="postgresql+psycopg")
    except exc.ArgumentError:
        raise SanaError("--database must be like postgresql://user@host/name") from None
    return create_engine(parsed, pool_pre_ping=True, pool_timeout=10, connect_args=settings)


def lock_folder(folder: Path) -> IO[str] | None:
    """Creates the folder and keeps other servers out of it until the file is closed. Raises SanaError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        reason = "it is no folder" if folder.exists() and not folder.is_dir() else error.strerror
        raise SanaError(f"cannot use --data {folder}: {reason}") from None
    try:
        import fcntl
    except ImportError:  # Windows
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        message = f"--data {folder} is in use by another server; give each its own, or share one --database"
        raise SanaError(message) from None
    return lock


@contextlib.contextmanager
def outages() -> Iterator[None]:
    """Raises BatchStoreUnavailable for errors that pass: no connection, no answer, no space."""
    try:
        yield
    except OUTAGES as error:
        raise BatchStoreUnavailable(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """The first line of the driver's message, without SQL, parameters or passwords."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]


def new_owner() -> str:
    """An id of this process that no other server has."""
    return f"{os.getpid()}-{time.time_ns():x}-{os.urandom(4).hex()}"
