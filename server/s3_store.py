"""Store of images in an S3-compatible bucket, fetched by signed URLs. Needs the extra `s3`."""

import asyncio
from urllib.parse import urlsplit

from engine import ImageFormat, SanaError

from .file_store import MEDIA_TYPES, new_name
from .writing import OutputError

MAX_SIGNED_SECONDS = 7 * 24 * 3600  # S3's own limit


class S3Store:
    """A bucket. boto3 reads credentials, region and endpoint as usual, from AWS_ENDPOINT_URL_S3 and so on.

    Args:
        place: s3://BUCKET or s3://BUCKET/PREFIX.
        max_age: seconds the URLs are valid; deleting the objects is left to a lifecycle rule of the bucket.
    """

    def __init__(self, place: str, max_age: float) -> None:
        try:
            import boto3
        except ImportError:
            raise SanaError("--files s3://... needs boto3: pip install 'sana-serve[s3]'") from None
        parts = urlsplit(place)
        self.bucket = parts.netloc
        self.prefix = parts.path.strip("/")
        self.seconds = int(min(max_age, MAX_SIGNED_SECONDS))
        if not self.bucket:
            raise SanaError(f"--files must be s3://BUCKET or s3://BUCKET/PREFIX, got {place!r} without a bucket")
        try:
            self._client = boto3.client("s3")
        except Exception as error:  # such as ValueError for an endpoint without a scheme
            raise SanaError(f"cannot use --files {place}: {error}") from None

    async def save(self, image: bytes, image_format: ImageFormat) -> str:
        return await asyncio.to_thread(self._save, image, image_format)

    async def sweep(self) -> None:
        """Does nothing: a lifecycle rule of the bucket deletes old objects."""

    def _save(self, image: bytes, image_format: ImageFormat) -> str:
        key = "/".join(filter(None, (self.prefix, new_name(image_format))))
        where = {"Bucket": self.bucket, "Key": key}
        try:
            self._client.put_object(**where, Body=image, ContentType=MEDIA_TYPES[image_format])
            return str(self._client.generate_presigned_url("get_object", Params=where, ExpiresIn=self.seconds))
        except Exception as error:  # botocore creates its error classes at run time
            raise OutputError(
                f"cannot store the image in bucket {self.bucket}: {error}", "the bucket cannot be written"
            ) from error
