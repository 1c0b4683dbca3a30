"""Atomic writes: a file is complete or absent, even if writing fails or is interrupted."""

import contextlib
import os
import secrets
from pathlib import Path

from engine import SanaError


class OutputError(SanaError):
    """The image cannot be written to its destination. `reason` says why without naming paths: clients may read it."""

    def __init__(self, message: str, reason: str = "see the server's log") -> None:
        super().__init__(message)
        self.reason = reason


def check_writable(path: Path) -> None:
    """Raises OutputError if `path` cannot be written or does not end in .png; called before the model loads."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it exists and is not a file")
    if path.suffix.lower() != ".png":
        raise OutputError(
            f"cannot write {path}: the file is a PNG, so its name must be like {path.with_suffix('.png')}"
        )
    probe = temporary_path(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a temporary file beside `path`, then renames it: an error keeps the previous file. Raises OutputError."""
    part = temporary_path(path)
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", str(error.strerror)) from None
    finally:
        with contextlib.suppress(OSError):  # a folder that is gone or read-only must not hide the error above
            part.unlink()


def temporary_path(path: Path) -> Path:
    return path.with_name(f".sana-{secrets.token_hex(8)}.part")
