"""HEAD and OPTIONS, which no route knows: for load balancers, and for scripts of web pages."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http_errors import OriginNotAllowed, error_body, kind_of


class HeadAsGet:
    """ASGI middleware: a HEAD is answered wherever GET is, and the body is dropped."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                headers = MutableHeaders(scope=message)
                if headers.get("allow") == "GET":
                    headers["allow"] = "GET, HEAD"
            elif message["type"] == "http.response.body" and head:
                message["body"] = b""
            await send(message)

        if head:
            scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            if head:
                scope["method"] = "HEAD"  # for the log


class JSONCORSMiddleware(CORSMiddleware):
    """Refuses in JSON, as everything here does; Starlette's own refusal is plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        error = OriginNotAllowed(bytes(response.body).decode())
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(error_body(error), kind_of(error).status, headers, media_type="application/json")
