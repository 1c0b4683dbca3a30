"""API keys: authentication, and the tenant of a request. Keys are stored, compared and logged only as hashes."""

import hashlib
import hmac
import logging
import re
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
    """The file of API keys cannot be read, or a key cannot be sent."""


class ApiKeys:
    """The accepted keys: a fixed list, and a file that is read again when it changes.

    Args:
        keys: the fixed list.
        file: one key per line; blank lines and lines that begin with # are skipped.
    """

    def __init__(self, keys: Sequence[str], file: Path | None) -> None:
        self._fixed = [digest(checked(key)) for key in keys]
        self._file = file
        self._read: tuple[int, ...] = ()
        self._from_file: list[bytes] = []
        if file is not None and file.exists() and not file.is_file():
            raise KeyFileError(f"{file} must be a regular file, because it is read again when it changes")
        self._reload()
        if file is not None and not self._from_file:
            raise KeyFileError(f"{file} must hold at least one API key, one per line, but has none")

    @property
    def required(self) -> bool:
        return bool(self._fixed) or self._file is not None

    def tenant(self, key: str) -> str | None:
        """The start of the key's hash, which names its owner in queue and log. None: the key is not accepted."""
        self._reload()
        offered, known = digest(key), False
        for accepted in (*self._fixed, *self._from_file):  # all, so that the time does not depend on which one matches
            known |= hmac.compare_digest(offered, accepted)
        return offered.hex()[:TENANT_CHARS] if known else None

    def _reload(self) -> None:
        """Reads the file again if it has changed. An error keeps the previous keys."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state == self._read:
                return
            lines = [line.strip() for line in self._file.read_text("utf-8-sig").splitlines()]
            keys = [digest(checked(line)) for line in lines if line and not line.startswith("#")]
        except (OSError, UnicodeDecodeError, KeyFileError) as error:
            if not self._read:
                raise KeyFileError(f"cannot read the API key file: {error}") from None
            log.error("cannot read the API key file again; keeping the previous keys: %s", error)
            return
        self._from_file, self._read = keys, state
        log.info("read %d API keys from %s", len(self._from_file), self._file)


def checked(key: str) -> str:
    """The key. Raises KeyFileError for one that no request can hold, without quoting it: it may be a secret."""
    if not re.fullmatch("[!-~]([ -~]*[!-~])?", key):
        raise KeyFileError("an API key must be printable ASCII without blanks at its ends, and not empty")
    return key


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
    key = sent_key(request)
    if not key:
        limits.rejected["api_key"] += 1
        raise MissingKey("You didn't provide an API key; send the header Authorization: Bearer YOUR_KEY.")
    tenant = keys.tenant(key)
    if tenant is None:
        limits.rejected["api_key"] += 1
        limits.count_guess(address)
        raise InvalidKey("Incorrect API key provided.")
    request.state.tenant = tenant


def sent_key(request: Request) -> str:
    """The key of the header Authorization, or of api-key, which Azure's clients send; "" if there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else ""
    return key or request.headers.get("api-key", "").strip()


async def limit(request: Request) -> AsyncGenerator[None]:
    """Dependency of routes that use the device: limits the rate and concurrency of the key, or else of the address."""
    limits: Limits = request.app.state.limits
    who = request.state.tenant or client_address(request)
    request.state.limit_headers = limits.take(who)
    try:
        yield
    finally:
        limits.release(who)


def client_address(connection: HTTPConnection) -> str:
    """The address of the client, from a trusted proxy if there is one; for IPv6 the /64, which one customer owns."""
    host = connection.client.host[:64] if connection.client else ""
    return ":".join(host.split(":")[:4]) if ":" in host else host
