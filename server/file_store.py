"""Store of the images that responses refer to by URL, bounded in bytes and age."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import threading
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from engine import ImageFormat

from .writing import OutputError, temporary_path, write_whole

log = logging.getLogger("sana.files")

MEDIA_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")
PART = re.compile(r"\.sana-[0-9a-f]{16}\.part")
PART_SECONDS = 600.0  # after which an unfinished file is what a killed server left
SWEEP_SECONDS = 30.0


class StoredFile(NamedTuple):
    """A file of the store, with its time in seconds since 1970 and its size in bytes."""

    saved: float
    size: int
    name: str


class FileStore(Protocol):
    """Storage that images are fetched from."""

    async def save(self, image: bytes, image_format: ImageFormat) -> str:
        """Stores the image and returns its URL; a relative URL is a path of this server."""
        ...

    async def sweep(self) -> None:
        """Deletes expired images; called every SWEEP_SECONDS."""
        ...


class DirectoryStore:
    """A folder, which several servers may share. The oldest files are deleted when their total exceeds the maximum.

    The folder is the only index: a file of another server is served, expires and counts like one of this server.

    Args:
        folder: images of an earlier run are kept, within the bounds.
        max_bytes: maximum total size of the files.
        max_age: seconds a file can be fetched.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_age = max_age
        self._lock = threading.Lock()
        self._files: list[StoredFile] = []  # as of the last scan, and those of this server since; oldest first
        self._next_scan = 0.0
        self._scan()
        probe = temporary_path(folder / "probe")
        try:
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise OutputError(f"cannot keep files in {folder}: {error.strerror}") from None

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self._files)

    async def save(self, image: bytes, image_format: ImageFormat) -> str:
        name = new_name(image_format)
        await asyncio.to_thread(self._write, name, image)
        return f"/files/{name}"

    async def sweep(self) -> None:
        await asyncio.to_thread(self._sweep)

    def find(self, name: str) -> Path | None:
        """The file of that name; None if it is unknown or expired. Only well-formed names become paths."""
        if not NAME.fullmatch(name):
            return None
        path = self.folder / name
        try:
            return path if time.time() - path.stat().st_mtime <= self.max_age else None
        except OSError:
            return None

    def _write(self, name: str, image: bytes) -> None:
        if len(image) > self.max_bytes:
            reason = f"an image must not exceed the file store's {self.max_bytes} bytes, got {len(image)} bytes"
            raise OutputError(reason, reason)
        with self._lock:
            if time.monotonic() >= self._next_scan:
                self._scan()
            self._make_room(len(image))
            self._files.append(
                StoredFile(time.time(), len(image), name)
            )  # before it is written, so that concurrent images have room too
        try:
            write_whole(self.folder / name, image)
        except OutputError:
            self._next_scan = 0.0
            raise

    def _sweep(self) -> None:
        with self._lock:
            self._scan()
            self._make_room(0)

    def _scan(self) -> None:
        """Reads the folder, and creates it if it is missing: a cleaner of /tmp may have deleted it.

        A scan of 10,000 files took 0.7 to 1.5 s on a loaded machine; the time until the next one keeps scans below 5 %
        of a core.
        """
        started = time.monotonic()
        files = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # another server has deleted it
                        if NAME.fullmatch(entry.name):
                            files.append(StoredFile(entry.stat().st_mtime, entry.stat().st_size, entry.name))
                        elif PART.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > PART_SECONDS:
                            Path(entry.path).unlink()
        except OSError as error:
            raise OutputError(f"cannot keep files in {self.folder}: {error.strerror}", str(error.strerror)) from None
        self._files = sorted(files)
        self._next_scan = time.monotonic() + 20 * (time.monotonic() - started)

    def _make_room(self, room: int) -> None:
        """Deletes expired files, then the oldest until `room` bytes are free."""
        total = self.total_bytes + room
        while self._files and (total > self.max_bytes or time.time() - self._files[0].saved > self.max_age):
            try:
                (self.folder / self._files[0].name).unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(
                    f"cannot delete old files in {self.folder}: {error.strerror}", str(error.strerror)
                ) from None
            total -= self._files.pop(0).size


def new_name(image_format: ImageFormat) -> str:
    """A new file name of 192 random bits, which cannot be guessed."""
    return f"{secrets.token_urlsafe(24)}.{image_format}"


async def sweep_forever(store: FileStore) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await store.sweep()
        except OutputError as error:  # the disk may recover
            log.error("%s", error)
