"""304 for files that the client already has."""

from fastapi import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles

CONDITIONS = StaticFiles()  # serves nothing; it knows the rules of If-None-Match and If-Modified-Since


def unless_unchanged(response: FileResponse, request: Request) -> Response:
    """The response, which must have an ETag, or 304 when the client's copy is current."""
    if CONDITIONS.is_not_modified(response.headers, request.headers):
        return NotModifiedResponse(response.headers)
    return response
