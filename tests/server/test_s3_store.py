"""Images in a bucket, over the S3 protocol, against moto's server on this machine."""

import asyncio
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

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
    """URL of an S3 server with the bucket `images`."""
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
        boto3.client("s3").create_bucket(Bucket="images")
        yield url
        server.stop()


def seconds_valid(url: str) -> float:
    """Seconds until a signed URL expires, of either version of S3's signatures."""
    query = parse_qs(urlsplit(url).query)
    return float(query["X-Amz-Expires"][0]) if "X-Amz-Expires" in query else float(query["Expires"][0]) - time.time()


@pytest.mark.parametrize("place", ["s3://images", "s3://images/a/b/"])
def test_s3_image_fetched_by_signed_url(endpoint: str, place: str) -> None:
    store = open_store(place, ServerConfig(EngineConfig(), files_max_age=600))
    assert isinstance(store, S3Store)
    url = asyncio.run(store.save(b"webp", "webp"))
    assert url.startswith(f"{endpoint}/images/" + place.removeprefix("s3://images").strip("/"))
    assert seconds_valid(url) == pytest.approx(600, abs=5)
    response = httpx.get(url)
    assert (response.status_code, response.content) == (200, b"webp")
    assert response.headers["content-type"] == "image/webp"


def test_s3_missing_bucket_named(endpoint: str) -> None:
    with pytest.raises(OutputError, match="bucket absent"):
        asyncio.run(S3Store("s3://absent", 60).save(b"x", "png"))


def test_s3_place_without_bucket_refused() -> None:
    with pytest.raises(SanaError, match="without a bucket"):
        S3Store("s3://", 60)
