"""HEAD for load balancers and OPTIONS for scripts of web pages; no route handles them."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http_errors import OriginNotAllowed, error_body, kind_of


class HeadAsGet:
    """ASGI middleware that answers HEAD wherever GET is answered, without the body."""

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
                scope["method"] = "HEAD"  # for the access log


class JSONCORSMiddleware(CORSMiddleware):
    """CORS whose refusals are OpenAI's JSON errors; Starlette's are plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        error = OriginNotAllowed(bytes(response.body).decode())
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(error_body(error), kind_of(error).status, headers, media_type="application/json")
