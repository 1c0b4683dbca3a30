"""The folder of images, and reading from it over HTTP, without an engine."""

import asyncio
import os
import time
from pathlib import Path

import httpx
import pytest

from engine import EngineConfig
from server.app import create_app
from server.file_store import NAME, DirectoryStore
from server.settings import ServerConfig
from server.writing import OutputError

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
