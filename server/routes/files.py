"""GET /files/{name}: the images that responses refer to by URL."""

import asyncio
import re

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from ..caching import unless_unchanged
from ..file_store import MEDIA_TYPES, NAME, DirectoryStore
from ..http_errors import FileNotFound, RangeNotSatisfiable

router = APIRouter()
HEADERS = {"x-content-type-options": "nosniff"}
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@router.get("/files/{name:path}", response_class=FileResponse)
async def read_file(name: str, request: Request) -> Response:
    """An image, or a range of its bytes. Needs no key, because the name cannot be guessed."""
    store = request.app.state.files
    path = store.find(name) if isinstance(store, DirectoryStore) else None
    if path is None and (image := await find_batch_image(name, request)) is not None:
        headers = {**HEADERS, "cache-control": "private"}
        return Response(image, headers=headers, media_type=MEDIA_TYPES[name.rpartition(".")[2]])
    if path is None or not path.is_file():
        raise FileNotFound("this file does not exist, or its time is over; images are kept for a limited time")
    stat = path.stat()
    headers = {**HEADERS, "cache-control": f"private, max-age={int(store.max_age)}"}
    file = FileResponse(path, media_type=MEDIA_TYPES[path.suffix[1:]], headers=headers, stat_result=stat)
    response = unless_unchanged(file, request)
    if response is file:  # RFC 9110, 13.2.2: a range counts only then
        keep_single_range(request, stat.st_size)
    return response


async def find_batch_image(name: str, request: Request) -> bytes | None:
    """The image of a batch, which is kept as long as the batch's output."""
    batches = request.app.state.batches
    return await asyncio.to_thread(batches.files.image, name) if batches and NAME.fullmatch(name) else None


def keep_single_range(request: Request, size: int) -> None:
    """Removes a Range header that is malformed or names several ranges: RFC 9110 allows to ignore it.

    Raises RangeNotSatisfiable for a range beyond the end.
    """
    header = request.headers.get("range")
    if header is None:
        return
    match = RANGE.fullmatch(header.strip())
    if match is None or match[0] == "bytes=-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
        request.scope["headers"] = [entry for entry in request.scope["headers"] if entry[0] != b"range"]
    elif (match[1] and int(match[1]) >= size) or (match[2] == "0" and not match[1]):
        raise RangeNotSatisfiable(size)
