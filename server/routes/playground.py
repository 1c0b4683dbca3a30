"""GET /: the playground, one page to try the model. It loads only its own files."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from ..caching import unless_unchanged

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parents[1] / "static"
TYPES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "script.js": "text/javascript",
    "edit.js": "text/javascript",
    "request.js": "text/javascript",
    "snippets.js": "text/javascript",
    "stream.js": "text/javascript",
}
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@router.get("/")
async def show_playground(request: Request) -> Response:
    return await read_static("index.html", request)


@router.get("/static/{name}")
async def read_static(name: str, request: Request) -> Response:
    if name not in TYPES:
        raise HTTPException(404)
    path = STATIC / name
    file = FileResponse(path, media_type=TYPES[name], headers=HEADERS, stat_result=path.stat())
    return unless_unchanged(file, request)
