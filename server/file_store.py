"""Store of the images that responses refer to by URL, bounded in bytes and age."""

import asyncio
import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from engine import ImageFormat

from .writing import OutputError, write_whole

MEDIA_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")
SWEEP_SECONDS = 30.0


class FileStore(Protocol):
    """Storage that images are fetched from."""

    async def save(self, image: bytes, image_format: ImageFormat) -> str:
        """Stores the image and returns its URL; a relative URL is a path of this server."""
        ...

    async def sweep(self) -> None:
        """Deletes expired images; called every SWEEP_SECONDS."""
        ...


class DirectoryStore:
    """A folder. The oldest files are deleted when their total size exceeds the maximum.

    Args:
        folder: images of an earlier run are kept, within the bounds.
        max_bytes: maximum total size of the files.
        max_age: seconds a file can be fetched.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_age = max_age
        self._sizes: OrderedDict[str, tuple[int, float]] = OrderedDict()  # name to bytes and time, oldest first
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = [(path.stat(), path.name) for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        except OSError as error:
            raise OutputError(f"cannot keep files in {folder}: {error.strerror}") from None
        for stat, name in sorted(found, key=lambda entry: entry[0].st_mtime):
            self._sizes[name] = (stat.st_size, stat.st_mtime)

    @property
    def total_bytes(self) -> int:
        return sum(size for size, _ in self._sizes.values())

    async def save(self, image: bytes, image_format: ImageFormat) -> str:
        name = new_name(image_format)
        await asyncio.to_thread(self._write, name, image)
        return f"/files/{name}"

    async def sweep(self) -> None:
        await asyncio.to_thread(self._make_room, 0)

    def find(self, name: str) -> Path | None:
        """The file of that name; None if it is unknown or expired. Only names of stored files become paths."""
        known = self._sizes.get(name)
        return self.folder / name if known and time.time() - known[1] <= self.max_age else None

    def _write(self, name: str, image: bytes) -> None:
        if len(image) > self.max_bytes:
            raise OutputError(
                f"an image must not exceed the file store's {self.max_bytes} bytes, got {len(image)} bytes"
            )
        self._make_room(len(image))
        write_whole(self.folder / name, image)
        with self._lock:
            self._sizes[name] = (len(image), time.time())

    def _make_room(self, room: int) -> None:
        """Deletes expired files, then the oldest until `room` bytes are free."""
        with self._lock:
            total = self.total_bytes + room
            for name, (size, saved) in list(self._sizes.items()):
                if total <= self.max_bytes and time.time() - saved <= self.max_age:
                    break
                (self.folder / name).unlink(missing_ok=True)
                total -= size
                del self._sizes[name]


def new_name(image_format: ImageFormat) -> str:
    """A new file name of 192 random bits, which cannot be guessed."""
    return f"{secrets.token_urlsafe(24)}.{image_format}"


async def sweep_forever(store: FileStore) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await store.sweep()
