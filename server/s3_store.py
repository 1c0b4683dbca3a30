"""Images in an S3-compatible bucket, fetched from there by signed URL. Needs the extra `s3`."""

import asyncio
from urllib.parse import urlsplit

from engine import ImageFormat, SanaError

from .file_store import MEDIA_TYPES, new_name
from .writing import OutputError

MAX_SIGNED_SECONDS = 7 * 24 * 3600  # S3's own limit


class S3Store:
    """A bucket. Credentials, region and endpoint are boto3's usual ones: AWS_ENDPOINT_URL_S3 and so on.

    The URLs end with `max_age`; that the objects do is for a lifecycle rule of the bucket.

    Args:
        place: s3://BUCKET or s3://BUCKET/PREFIX.
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
            raise SanaError(f"--files {place} names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX")
        self._client = boto3.client("s3")

    async def save(self, image: bytes, image_format: ImageFormat) -> str:
        return await asyncio.to_thread(self._save, image, image_format)

    async def sweep(self) -> None:
        """The bucket's lifecycle rule does."""

    def _save(self, image: bytes, image_format: ImageFormat) -> str:
        key = "/".join(filter(None, (self.prefix, new_name(image_format))))
        where = {"Bucket": self.bucket, "Key": key}
        try:
            self._client.put_object(**where, Body=image, ContentType=MEDIA_TYPES[image_format])
            return str(self._client.generate_presigned_url("get_object", Params=where, ExpiresIn=self.seconds))
        except Exception as error:  # botocore's classes are made at run time
            raise OutputError(f"the image was not stored in bucket {self.bucket}: {error}") from error
