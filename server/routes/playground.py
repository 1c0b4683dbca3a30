"""GET /: the playground, one page to try the model. It loads only its own files."""

from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parents[1] / "static"
TYPES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "script.js": "text/javascript",
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
async def show_playground() -> FileResponse:
    return await read_static("index.html")


@router.get("/static/{name}")
async def read_static(name: str) -> FileResponse:
    if name not in TYPES:
        raise HTTPException(404)
    return FileResponse(STATIC / name, media_type=TYPES[name], headers=HEADERS)
