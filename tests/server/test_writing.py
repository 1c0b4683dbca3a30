import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.writing import OutputError, check_writable, write_whole


@contextmanager
def file_size_limited_to(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes inside, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_whole_replaces_file(tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    check_writable(out)
    write_whole(out, b"first")
    write_whole(out, b"second")
    assert out.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [out]


def test_full_disk_keeps_previous_file(tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    out.write_bytes(b"old")
    with file_size_limited_to(1000), pytest.raises(OutputError, match=r"cannot write .*cat\.png: File too large"):
        write_whole(out, b"x" * 2000)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "cat.png", b"x")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, reason in (
        (tmp_path / "absent" / "cat.png", "does not exist"),
        (tmp_path / "file" / "cat.png", "does not exist"),
        (tmp_path, "is not a file"),
        (Path("/dev/full"), "is not a file"),
        (Path("/proc/cat.png"), "cannot write"),
    ):
        with pytest.raises(OutputError, match=reason):
            check_writable(out)


def test_check_writable_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    out.write_bytes(b"old")
    check_writable(out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["cat.jpg", "cat", "cat.png.txt"])
def test_output_name_must_end_in_png(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"its name must be like .*cat(\.png)?\.png$"):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "cat.PNG")
