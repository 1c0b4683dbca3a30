"""Objects that a job makes: their names, which follow from their content, and the places that hold them. Torch-free.

An object that exists is done: it is written whole or not at all, so a job needs no other record of what it has made.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from engine import MAX_SEED, GenerationParams, ModelInfo, SanaError, check_params
from server.prompt_files import row_params
from server.request_params import RANDOM
from server.writing import OutputError, write_whole

FORMATS = ("files", "parquet", "webdataset")
SUFFIXES = {"parquet": "parquet", "webdataset": "tar"}
NOT_CONTENT = ("n", "partial_images", "priority", "timeout", "tenant", "background")
"""Fields of GenerationParams that do not change the file of an image."""
SEED_DIGITS = 8
NAME_DIGITS = 40


@dataclass(frozen=True)
class ImageObject:
    """One image to make: its parameters, with n = 1, and its name without a suffix."""

    params: GenerationParams
    name: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.{self.params.output_format}"


def image_objects(fields: Mapping[str, Any], model: ModelInfo, weights: str) -> list[ImageObject]:
    """The images of a row. Raises SanaError for a row that is no valid request.

    A row without a seed gets one that follows from its content: a random one would be another image after a restart.

    Args:
        fields: fields of a request, such as {"prompt": "a red circle", "size": "512x512"}.
        weights: digest of what the images depend on beside the request, as of `digest_of`.
    """
    seeded = fields.get("seed") not in (None, RANDOM)
    params = row_params(model, {**fields} if seeded else {**fields, "seed": 0})
    check_params(params, model)
    first = params.seed if seeded else int(content_name(params, weights)[:SEED_DIGITS], 16)
    images = [replace(params, n=1, seed=(first + k) % (MAX_SEED + 1)) for k in range(params.n)]
    return [ImageObject(image, content_name(image, weights)) for image in images]


def content_name(params: GenerationParams, weights: str) -> str:
    """Hexadecimal digest of all that decides the bytes of an image."""
    content = {name: value for name, value in asdict(params).items() if name not in NOT_CONTENT}
    return digest_of([weights, json.dumps(content, sort_keys=True)])


def digest_of(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:NAME_DIGITS]


class Place(Protocol):
    """A folder or bucket. Both methods may be called from any thread."""

    def exists(self, name: str) -> bool: ...

    def write(self, name: str, data: bytes) -> None:
        """Writes the object whole or not at all. Raises OutputError."""
        ...


class Folder:
    """A folder, which all machines of the cluster share under one path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write into {path}: {error.strerror}") from None

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def write(self, name: str, data: bytes) -> None:
        write_whole(self.path / name, data)


class Bucket:
    """A bucket of S3 or a store like it. boto3 reads credentials and endpoint as usual, from AWS_ENDPOINT_URL_S3."""

    def __init__(self, place: str) -> None:
        try:
            import boto3
            from botocore.exceptions import ClientError
        except ImportError:
            raise SanaError("--out s3://... needs boto3: pip install 'sana-serve[s3]'") from None
        parts = urlsplit(place)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        if not self.bucket:
            raise SanaError(f"--out must be s3://BUCKET or s3://BUCKET/PREFIX, got {place!r} without a bucket")
        self._client, self._error = boto3.client("s3"), ClientError

    def exists(self, name: str) -> bool:
        try:
            self._client.head_object(Bucket=self.bucket, Key=self._key(name))
        except self._error as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise OutputError(f"cannot read bucket {self.bucket}: {error}") from None
        return True

    def write(self, name: str, data: bytes) -> None:
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data)
        except Exception as error:  # botocore creates its error classes at run time
            raise OutputError(f"cannot write into bucket {self.bucket}: {error}") from None

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def open_place(place: str) -> Place:
    """The folder, or the bucket of s3://BUCKET/PREFIX. Raises SanaError."""
    return Bucket(place) if place.startswith("s3://") else Folder(Path(place))


def shard_name(images: Sequence[ImageObject], shard_format: str) -> str:
    """Name of the shard of these images, which follows from theirs."""
    return f"{digest_of([image.name for image in images])}.{SUFFIXES[shard_format]}"


def tar_shard(images: Sequence[ImageObject], files: Sequence[bytes]) -> bytes:
    """A shard in WebDataset's form: for each image a file, and a JSON file of the same name with its parameters."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for image, file in zip(images, files, strict=True):
            described = json.dumps(described_params(image)).encode()
            for name, data in ((image.file_name, file), (f"{image.name}.json", described)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def parquet_shard(images: Sequence[ImageObject], files: Sequence[bytes]) -> bytes:
    """A Parquet file with the columns name, image (the file's bytes) and the parameters."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"name": image.name, "image": file, **described_params(image)}
        for image, file in zip(images, files, strict=True)
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def described_params(image: ImageObject) -> dict[str, Any]:
    return {name: value for name, value in asdict(image.params).items() if name not in NOT_CONTENT}
