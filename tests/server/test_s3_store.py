"""Images in a bucket, over the S3 protocol, against moto's server on this machine."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine import EngineConfig, SanaError
from server.app import open_store
from server.s3_store import S3Store
from server.settings import ServerConfig
from server.writing import OutputError

boto3 = pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 with the bucket `pictures`."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        patch.setenv("AWS_ENDPOINT_URL_S3", url)
        boto3.client("s3").create_bucket(Bucket="pictures")
        yield url
        server.stop()


@pytest.mark.parametrize("place", ["s3://pictures", "s3://pictures/a/b/"])
def test_an_image_is_put_and_fetched_by_its_signed_url(endpoint: str, place: str) -> None:
    store = open_store(ServerConfig(EngineConfig(), files=place, files_max_age=600), Path())
    assert isinstance(store, S3Store)
    url = asyncio.run(store.save(b"webp", "webp"))
    assert url.startswith(f"{endpoint}/pictures/" + place.removeprefix("s3://pictures").strip("/"))
    assert "X-Amz-Expires=600" in url or "Expires=" in url
    response = httpx.get(url)
    assert (response.status_code, response.content) == (200, b"webp")
    assert response.headers["content-type"] == "image/webp"


def test_a_bucket_that_is_not_there_is_told(endpoint: str) -> None:
    with pytest.raises(OutputError, match="bucket absent"):
        asyncio.run(S3Store("s3://absent", 60).save(b"x", "png"))


def test_a_place_without_a_bucket_is_refused() -> None:
    with pytest.raises(SanaError, match="names no bucket"):
        S3Store("s3://", 60)
