"""/v1/files: input and output files of the Batch API. Not the images behind URLs, which are at /files/{name}."""

import asyncio
import re
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from engine import InvalidParams

from ..auth import limit
from ..batches.objects import DeletedFile, FileList, FileObject
from ..http_errors import BatchesDisabled, BatchStoreFull, BodyTooLarge, NoSuchBatchObject, printable
from ..upload_form import read_form

if TYPE_CHECKING:
    from ..batches.runner import BatchRunner

router = APIRouter()
MAX_FILE_BYTES = 1 << 30
CHUNK_BYTES = 1 << 20
MIN_EXPIRY, MAX_EXPIRY = 3600, 2_592_000
"""Bounds of OpenAI's expires_after, in seconds."""
FORM_SCHEMA = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": ["batch"]}},
}}}}}  # fmt: skip


@router.post("/v1/files", response_model=FileObject, openapi_extra=FORM_SCHEMA, dependencies=[Depends(limit)])
async def upload_file(request: Request) -> Any:
    """Stores a file for a batch. It is streamed into the database, and visible once it is complete."""
    batches = enabled(request)
    if int(request.headers.get("content-length", "0")) > MAX_FILE_BYTES:
        raise BodyTooLarge(f"a file must not exceed {MAX_FILE_BYTES} bytes")
    await asyncio.to_thread(make_room, batches, 1)
    upload = Upload(batches, await asyncio.to_thread(batches.files.begin, request.state.tenant))
    try:
        fields, filenames = await read_form(request, MAX_FILE_BYTES, upload.write)
        filename = filenames.get("file")
        check_fields(fields, filename)
        await upload.flush()
        kept = request.app.state.config.batch_max_age
        anchor, seconds = (fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
        seconds = min(expiry(anchor, seconds) or kept, kept)
        name = printable((filename or "").replace("\0", ""))[:255] or "upload.jsonl"
        return await asyncio.to_thread(batches.files.finish, upload.file_id, name, seconds)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(batches.files.discard, upload.file_id))
        raise


@router.get("/v1/files", response_model=FileList)
def list_files(
    request: Request,
    after: str | None = None,
    limit: str | None = None,
    order: str | None = None,
    purpose: str | None = None,
) -> Any:
    batches = enabled(request)
    if order not in (None, "asc", "desc"):
        raise InvalidParams(f"order must be asc or desc, got {printable(repr(order[:40]))}", "order")
    rows, more = batches.files.page(
        request.state.tenant, after, page_limit(limit, 10_000, 10_000), order != "asc", purpose
    )
    return listing(rows, more)


@router.get("/v1/files/{file_id}", response_model=FileObject)
def retrieve_file(file_id: str, request: Request) -> Any:
    return find_file(file_id, request)


@router.get("/v1/files/{file_id}/content", response_class=StreamingResponse)
def read_content(file_id: str, request: Request) -> Response:
    """The bytes of the file; an output file is put together from the lines of its batch as it is sent."""
    file = find_file(file_id, request)
    headers = {"content-length": str(file.bytes)}
    # Starlette iterates a plain iterator in a thread.
    return StreamingResponse(enabled(request).files.content(file), 200, headers, "application/octet-stream")


@router.delete("/v1/files/{file_id}", response_model=DeletedFile)
def delete_file(file_id: str, request: Request) -> Any:
    if not enabled(request).files.delete(request.state.tenant, file_id):
        raise no_such_file(file_id)
    return {"id": file_id}


class Upload:
    """A file that arrives, stored in chunks of CHUNK_BYTES."""

    def __init__(self, batches: "BatchRunner", file_id: str) -> None:
        self.file_id = file_id
        self._batches = batches
        self._pending = bytearray()
        self._chunks = 0

    async def write(self, part: str, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= CHUNK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        await asyncio.to_thread(self._store, data)
        self._chunks += 1

    def _store(self, data: bytes) -> None:
        make_room(self._batches, len(data))
        self._batches.files.append(self.file_id, self._chunks, data)


def enabled(request: Request) -> "BatchRunner":
    """The server's batches. Raises BatchesDisabled."""
    batches: BatchRunner | None = request.app.state.batches
    if batches is None:
        raise BatchesDisabled("this server has no files and batches; start it with --data FOLDER or --database URL")
    return batches


def make_room(batches: "BatchRunner", size: int) -> None:
    """Raises BatchStoreFull if `size` bytes may not be added, not even in place of old files."""
    if not batches.retention.has_room(size):
        batches.retention.sweep()
        if not batches.retention.has_room(size):
            raise BatchStoreFull("the server holds as many bytes of files and batches as it may; delete some files")


def find_file(file_id: str, request: Request) -> Any:
    file = enabled(request).files.find(request.state.tenant, file_id)
    if file is None:
        raise no_such_file(file_id)
    return file


def no_such_file(file_id: str) -> NoSuchBatchObject:
    return NoSuchBatchObject(f"No such File object: {printable(file_id)[:100]}")


def check_fields(fields: dict[str, str], filename: str | None) -> None:
    """Raises InvalidParams for a form without a file, or of another purpose."""
    for name, given in (("purpose", "purpose" in fields), ("file", filename is not None)):
        if not given:
            raise InvalidParams(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if fields["purpose"] != "batch":
        shown = printable(repr(fields["purpose"]))[:60]
        raise InvalidParams(f"Invalid value: {shown}. Supported values are: 'batch'.", "purpose")


def expiry(anchor: object, seconds: object) -> int | None:
    """Seconds of OpenAI's expires_after; None if it is not given. Raises InvalidParams."""
    if anchor is None and seconds is None:
        return None
    kept = whole_number(seconds)
    if anchor != "created_at" or kept is None or not MIN_EXPIRY <= kept <= MAX_EXPIRY:
        message = f"expires_after must have the anchor created_at and {MIN_EXPIRY} to {MAX_EXPIRY} seconds"
        raise InvalidParams(message, "expires_after")
    return kept


def page_limit(text: str | None, default: int, maximum: int) -> int:
    """The number of entries of a page. Raises InvalidParams."""
    if text is None:
        return default
    entries = whole_number(text)
    if entries is None or not 1 <= entries <= maximum:
        raise InvalidParams(f"limit must be between 1 and {maximum}, got {printable(repr(text[:40]))}", "limit")
    return entries


def whole_number(value: object) -> int | None:
    """The number that a JSON number or a text of digits is; None for anything else."""
    if isinstance(value, str):
        digits = re.fullmatch(r"([0-9]{1,9})(?:\.0+)?", value)
        return int(digits[1]) if digits else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:  # infinity % 1 is not a number
        return None
    return int(value)


def listing(rows: list[Any], more: bool) -> dict[str, Any]:
    """OpenAI's page of a list."""
    first, last = (rows[0].id, rows[-1].id) if rows else (None, None)
    return {"data": rows, "first_id": first, "last_id": last, "has_more": more}
