"""What is wrong with a file that could not be read: an interrupted download, a pointer, a web page, another format."""

import json
import zipfile
from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/"
MAX_HEADER_BYTES = 100_000_000
"""Limit of a safetensors header, as in the safetensors library."""


def describe_damage(path: Path) -> str | None:
    """One line naming the file, what it really is and the remedy, or None if the file shows nothing of the kind."""
    try:
        if path.is_dir():
            return f"{path} is a folder, not a file"
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        return f"{path} does not exist"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    named_safetensors = path.suffix == ".safetensors"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        return f"{path} is empty (0 bytes): copy or download it again"
    if start.startswith(LFS_POINTER):
        return f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"{path} is a web page: download the file itself (a hub URL with /resolve/ in place of /blob/)"
    if path.suffix != ".json" and text.startswith(b"{"):
        return f"{path} is a JSON text such as a server's error message, not weights: download it again"
    if start.startswith(b"GGUF"):
        return f"{path} is a GGUF file, which is not supported: use the model's safetensors or .pth"
    if start.startswith(b"\x1f\x8b"):
        return f"{path} is compressed with gzip: unpack it first"
    if start.startswith(b"PK"):
        return describe_zip(path, named_safetensors)
    if start.startswith(b"\x80") and named_safetensors:
        return f"{path} is a Python pickle, not a safetensors file: if you trust it, rename it to .pth"
    return describe_safetensors(path, size, named_safetensors)


def describe_zip(path: Path, named_safetensors: bool) -> str | None:
    """What a zip archive is, if it is not a complete PyTorch file under the right name."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"{path} is truncated: the end of its zip archive is missing; copy or download it again"
    if not any(name.endswith("data.pkl") for name in names):
        return f"{path} is a zip archive of other files ({', '.join(names[:3]) or 'none'}), not a PyTorch file"
    if any("/code/" in name for name in names):
        return f"{path} is a TorchScript program, not a state dict"
    if named_safetensors:
        return f"{path} is a PyTorch pickle, not a safetensors file: if you trust it, rename it to .pth"
    return None


def describe_safetensors(path: Path, size: int, named_safetensors: bool) -> str | None:
    """How much of a safetensors file is missing, or that one has another suffix."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                return None
            if 8 + length > size:
                cut = file.read(1) == b"{"
                return f"{path} is truncated: it ends within its header; copy or download it again" if cut else None
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        kind = "truncated" if size < expected else "damaged"
        return f"{path} is {kind}: it has {size} bytes instead of {expected}; copy or download it again"
    return None if named_safetensors else f"{path} is a safetensors file: rename it to .safetensors"
