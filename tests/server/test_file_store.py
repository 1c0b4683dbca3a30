"""The folder of images, and reading from it over HTTP, without an engine."""

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engine import EngineConfig
from server.app import create_app
from server.file_store import NAME, DirectoryStore
from server.settings import ServerConfig
from server.writing import OutputError

from .live import LiveServer
from .routes.test_operations import asgi_client

IMAGE = bytes(range(256)) * 4


def save(store: DirectoryStore, image: bytes = IMAGE) -> str:
    """The path of the stored image."""
    return asyncio.run(store.save(image, "png"))


def read(store: DirectoryStore, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        app = create_app(ServerConfig(EngineConfig()))
        app.state.files = store
        async with asgi_client(app) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(request())


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "files", max_bytes=4096, max_age=60)


def test_file_names_are_random(store: DirectoryStore) -> None:
    paths = {save(store) for _ in range(4)}
    assert len(paths) == 4
    assert all(NAME.fullmatch(path.removeprefix("/files/")) for path in paths)


def test_file_served_with_headers(store: DirectoryStore) -> None:
    response = read(store, save(store))
    assert response.content == IMAGE
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "private, max-age=60"
    head = read(store, save(store), "HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(IMAGE)))


@pytest.mark.parametrize(
    ("header", "part"),
    [("bytes=0-9", IMAGE[:10]), ("bytes=1000-", IMAGE[1000:]), ("bytes=-5", IMAGE[-5:]), ("bytes=9-9", IMAGE[9:10])],
)
def test_range_served(store: DirectoryStore, header: str, part: bytes) -> None:
    response = read(store, save(store), range=header)
    assert response.status_code == 206
    assert response.content == part
    assert response.headers["content-range"].endswith(f"/{len(IMAGE)}")


@pytest.mark.parametrize("header", ["bytes=5-1", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=a-b", ""])
def test_malformed_range_ignored(store: DirectoryStore, header: str) -> None:
    response = read(store, save(store), range=header)
    assert (response.status_code, response.content) == (200, IMAGE)


@pytest.mark.parametrize("header", ["bytes=1024-", "bytes=99999999999999999-", "bytes=-0"])
def test_range_beyond_end_gets_416(store: DirectoryStore, header: str) -> None:
    response = read(store, save(store), range=header)
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(IMAGE)}"
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path",
    [
        "/files/",
        "/files/secret.png",
        "/files/../secret.png",
        "/files/..%2fsecret.png",
        "/files/%2e%2e/secret.png",
        "/files//etc/passwd",
        "/files/%00.png",
        "/files/" + "a" * 5000,
        "/files/" + "A" * 32 + ".png",
    ],
)
def test_path_traversal_gets_404(store: DirectoryStore, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.png").write_text("secret")
    (store.folder / "secret.png").write_text("secret")
    response = read(store, path)
    assert response.status_code == 404
    assert "secret" not in response.text.replace("secret.png", "")
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_oldest_files_deleted_beyond_max_bytes(store: DirectoryStore) -> None:
    paths = [save(store) for _ in range(6)]
    assert [read(store, path).status_code for path in paths] == [404, 404, 200, 200, 200, 200]
    assert store.total_bytes == sum(file.stat().st_size for file in store.folder.iterdir()) == 4096


def test_image_larger_than_store_refused(store: DirectoryStore) -> None:
    path = save(store)
    with pytest.raises(OutputError, match="5000 bytes"):
        save(store, bytes(5000))
    assert read(store, path).status_code == 200


def test_expired_file_not_served_and_deleted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, max_bytes=4096, max_age=0.1)
    path = save(store)
    time.sleep(0.2)
    assert read(store, path).status_code == 404
    asyncio.run(store.sweep())
    assert list(tmp_path.iterdir()) == []


def test_files_of_earlier_run_kept_within_bounds(tmp_path: Path) -> None:
    first = DirectoryStore(tmp_path, max_bytes=4096, max_age=60)
    old, new = save(first), save(first)
    os.utime(tmp_path / old.removeprefix("/files/"), (0, 0))
    (tmp_path / "notes.txt").write_text("not ours")
    second = DirectoryStore(tmp_path, max_bytes=4096, max_age=60)
    assert [read(second, path).status_code for path in (old, new)] == [404, 200]
    asyncio.run(second.sweep())
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([new.removeprefix("/files/"), "notes.txt"])


def test_unusable_folder_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot keep files"):
        DirectoryStore(tmp_path / "file", 1, 1)


def test_shared_folder_served_by_both_servers(store: DirectoryStore) -> None:
    other = DirectoryStore(store.folder, store.max_bytes, store.max_age)
    path = save(store)
    assert read(other, path).content == IMAGE
    os.utime(store.folder / path.removeprefix("/files/"), (0, 0))
    assert [read(one, path).status_code for one in (store, other)] == [404, 404]


def test_shared_folder_bounded_across_servers(store: DirectoryStore) -> None:
    other = DirectoryStore(store.folder, store.max_bytes, store.max_age)
    paths = [save(one) for _ in range(5) for one in (store, other)]
    for one in (store, other):
        asyncio.run(one.sweep())
        assert one.total_bytes == sum(file.stat().st_size for file in store.folder.iterdir()) == store.max_bytes
    assert [read(other, path).status_code for path in paths] == [404] * 6 + [200] * 4


def test_file_deleted_by_another_server_is_no_error(store: DirectoryStore) -> None:
    path = save(store)
    (store.folder / path.removeprefix("/files/")).unlink()
    assert read(store, path).status_code == 404
    asyncio.run(store.sweep())
    assert store.total_bytes == 0


def test_deleted_folder_made_again(store: DirectoryStore) -> None:
    save(store)
    shutil.rmtree(store.folder)
    with contextlib.suppress(OutputError):  # unless the folder is scanned before it
        save(store)
    assert read(store, save(store)).content == IMAGE


def test_unfinished_file_of_killed_server_deleted(store: DirectoryStore) -> None:
    old, new = (store.folder / f".sana-{digit * 16}.part" for digit in "ab")
    for part in (old, new):
        part.touch()
    os.utime(old, (0, 0))
    asyncio.run(store.sweep())
    assert list(store.folder.iterdir()) == [new]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a file system of 256 KiB."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=60", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs permission to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def disk_server(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("log") / "log", "--files", str(disk / "files")) as server:
        yield server


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def write_protect(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def replace_by_file(disk: Path) -> None:
    shutil.rmtree(disk / "files")
    (disk / "files").touch()


def use_up_inodes(disk: Path) -> None:
    (disk / "fillers").mkdir()
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (disk / "fillers" / str(number)).touch()


@pytest.mark.parametrize(
    ("break_disk", "reason"),
    [
        (fill, "No space left on device"),
        (write_protect, "Read-only file system"),
        (replace_by_file, ""),  # "Not a directory", or "File exists" once the folder has been scanned
        (use_up_inodes, "No space left on device"),
    ],
)
def test_storage_fault_gets_507_with_reason(
    disk_server: LiveServer, disk: Path, break_disk: Callable[[Path], None], reason: str
) -> None:
    body = {"prompt": "a", "size": "64x64", "num_inference_steps": 1, "response_format": "url"}
    url = f"{disk_server.url}/v1/images/generations"
    break_disk(disk)
    try:
        response = httpx.post(url, json=body, headers={"x-request-id": break_disk.__name__}, timeout=120)
        assert (response.status_code, response.headers["x-should-retry"]) == (507, "false")
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "storage_failed")
        assert reason in error["message"]
        assert str(disk) not in error["message"]
        assert httpx.get(f"{disk_server.url}/ready").status_code == 200
        log = disk_server.logged(f"{break_disk.__name__} cannot ")
        assert f"{break_disk.__name__} POST /v1/images/generations 507" in log
        if (disk / "files").is_dir():
            assert not list((disk / "files").glob(".*"))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        (disk / "filler").unlink(missing_ok=True)
        shutil.rmtree(disk / "fillers", ignore_errors=True)
        if (disk / "files").is_file():
            (disk / "files").unlink()
    mended = httpx.post(url, json=body, timeout=120)
    assert httpx.get(mended.json()["data"][0]["url"]).status_code == 200
