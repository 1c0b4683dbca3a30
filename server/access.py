"""Around every request: an id, one line in the log, and an answer to what nobody caught."""

import logging
import re
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http_errors import error_response

log = logging.getLogger("sana.access")
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class AccessLog:
    """ASGI middleware; stands outside everything, so that 404s and 500s have an id too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        request_id = request.state.request_id = choose_id(request.headers.get("x-request-id", ""))
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(getattr(request.state, "limit_headers", {}))
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round(1000 * (time.monotonic() - started)))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            log.exception("%s failed", request_id, extra={"request_id": request_id})
            if status:  # half an answer is out: only the server can cut the connection
                raise
            await error_response(error, request)(scope, receive, send_with_id)
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "unknown")
            scope["app"].state.metrics.count_response(route, status)
            line = {
                "request_id": request_id,
                "method": scope["method"][:20],  # any word is a method to HTTP
                "path": scope["raw_path"][:200].decode("latin-1"),  # still percent-encoded: it cannot forge a line
                "status": status,
                "milliseconds": round(1000 * seconds, 1),
                "tenant": getattr(request.state, "tenant", ""),
            }
            log.info("%(request_id)s %(method)s %(path)s %(status)d %(milliseconds).1f ms", line, extra=line)


def choose_id(offered: str) -> str:
    return offered if SANE_ID.fullmatch(offered) else f"req_{secrets.token_hex(12)}"
