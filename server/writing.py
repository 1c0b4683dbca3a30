"""Files that are whole or absent, whatever happens while they are written."""

import os
import secrets
from pathlib import Path

from engine import SanaError


class OutputError(SanaError):
    """The picture cannot be put where it was asked for."""


def check_writable(path: Path) -> None:
    """Raises OutputError, before an hour of work, when `path` cannot be written or is no name of a PNG."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it exists and is not a file")
    if path.suffix.lower() != ".png":
        raise OutputError(f"cannot write {path}: the picture is a PNG, so name it {path.with_suffix('.png')}")
    probe = neighbour(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside `path`, then renames: a full disk or an interrupt leaves what was there. Raises OutputError."""
    part = neighbour(path)
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def neighbour(path: Path) -> Path:
    return path.with_name(f".sana-{secrets.token_hex(8)}.part")
