"""API keys: who may ask, and as which tenant. A key is kept, compared and logged as its hash only."""

import hashlib
import hmac
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from fastapi import Request
from starlette.requests import HTTPConnection

from engine import SanaError

from .http_errors import InvalidKey, MissingKey
from .limits import Limits

log = logging.getLogger("sana.auth")
TENANT_CHARS = 16


class KeyFileError(SanaError):
    """The file of API keys cannot be read."""


class ApiKeys:
    """The accepted keys: a fixed list, and a file that is read again when it changes.

    Args:
        keys: the fixed list.
        file: one key per line; blank lines and lines that begin with # are skipped.
    """

    def __init__(self, keys: Sequence[str], file: Path | None) -> None:
        self._fixed = [digest(key) for key in keys]
        self._file = file
        self._read: tuple[int, ...] = ()
        self._from_file: list[bytes] = []
        self._reload()
        if file is not None and not self._from_file:
            raise KeyFileError(f"{file} holds no API key; write one per line")

    @property
    def required(self) -> bool:
        return bool(self._fixed) or self._file is not None

    def tenant(self, key: str) -> str | None:
        """The name of the key's owner in queue and log: a part of its hash. None: the key is not one of ours."""
        self._reload()
        asked, known = digest(key), False
        for ours in (*self._fixed, *self._from_file):  # all of them, whichever matches: the time tells nothing
            known |= hmac.compare_digest(asked, ours)
        return asked.hex()[:TENANT_CHARS] if known else None

    def _reload(self) -> None:
        """Reads the file when it is another one than before; a fault keeps the keys there were."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state == self._read:
                return
            lines = [line.strip() for line in self._file.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            if not self._read:
                raise KeyFileError(f"the API keys cannot be read: {error}") from None
            log.error("the API keys cannot be read again, the old ones stay: %s", error)
            return
        self._from_file = [digest(line) for line in lines if line and not line.startswith("#")]
        self._read = state
        log.info("%d API keys read from %s", len(self._from_file), self._file)


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


async def authorize(request: Request) -> None:
    """Dependency of every route under /v1. Raises MissingKey, InvalidKey or TooManyRequests."""
    request.state.tenant = ""
    keys: ApiKeys = request.app.state.keys
    limits: Limits = request.app.state.limits
    if not keys.required:
        return
    address = client_address(request)
    limits.check_guesses(address)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise MissingKey("You didn't provide an API key; send the header Authorization: Bearer YOUR_KEY.")
    tenant = keys.tenant(key.strip())
    if tenant is None:
        limits.count_guess(address)
        raise InvalidKey("Incorrect API key provided.")
    request.state.tenant = tenant


async def limit(request: Request) -> AsyncGenerator[None]:
    """Dependency of the routes that cost device time: the rate and the concurrency of the key, or of the address."""
    limits: Limits = request.app.state.limits
    who = request.state.tenant or client_address(request)
    request.state.limit_headers = limits.take(who)
    try:
        yield
    finally:
        limits.release(who)


def client_address(connection: HTTPConnection) -> str:
    """The peer, or what a trusted proxy says it is; of IPv6 the /64, which is one customer."""
    host = connection.client.host[:64] if connection.client else ""
    return ":".join(host.split(":")[:4]) if ":" in host else host
