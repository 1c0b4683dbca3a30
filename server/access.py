"""What every request gets: an id, one line in the access log, and a 500 for an error that nothing else handled.

Why not asgi-correlation-id (5.0): it accepts only UUIDs unless given our check and our generator as options, logs a
warning for each id it refuses, and would still leave the log line, the seconds and the 500 to a wrapper of ours, which
sets the header in one line.
"""

import logging
import re
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http_errors import error_response

log = logging.getLogger("sana.access")
VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class AccessLog:
    """ASGI middleware. The outermost one, so that 404s and 500s have an id too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        given = getattr(request.state, "request_id", None)  # by server/protocol.py, which has refused the body
        request_id = request.state.request_id = given or choose_id(request.headers.get("x-request-id", ""))
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(getattr(request.state, "limit_headers", {}))
                headers["x-request-id"] = request_id
                request.state.chunked = status == 200 and "content-length" not in headers  # see server/half_close.py
                if scope["app"].state.engine.draining:
                    headers["connection"] = "close"  # so that no request is sent on it after the stop
                headers["openai-processing-ms"] = str(round(1000 * (time.monotonic() - started)))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            log.exception("%s failed", request_id, extra={"request_id": request_id})
            if status:  # the response has begun: only uvicorn can close the connection
                raise
            await error_response(error, request)(scope, receive, send_with_id)
        finally:
            if not getattr(request.state, "refused", False):  # else that response has its line
                route = getattr(scope.get("route"), "path", "unknown")
                scope["app"].state.metrics.count_response(route, status)
                path = scope["raw_path"].decode("latin-1")  # percent-encoded, so that it cannot forge a line
                tenant = getattr(request.state, "tenant", "")
                log_response(request_id, scope["method"], path, status, time.monotonic() - started, tenant)


def log_response(request_id: str, method: str, path: str, status: int, seconds: float, tenant: str = "") -> None:
    """Writes the line of one response; also server/protocol.py does, for input that reaches no application."""
    line = {
        "request_id": request_id,
        "method": method[:20],  # HTTP allows any word, of any length
        "path": path[:200],
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
        "tenant": tenant,
    }
    log.info("%(request_id)s %(method)s %(path)s %(status)d %(milliseconds).1f ms", line, extra=line)


def choose_id(offered: str) -> str:
    """The client's id if it is valid, else a new one."""
    return offered if VALID_ID.fullmatch(offered) else f"req_{secrets.token_hex(12)}"
