"""Paths as clients build them: a base URL with a slash at its end, or an endpoint with one."""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send


class NormalPaths:
    """ASGI middleware that routes /v1//models/ as /v1/models. An encoded slash, as in org%2Fname, is no separator."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope["raw_path"].decode("latin-1")  # stays as it is, for the access log
            path = re.sub("/{2,}", "/", raw).rstrip("/") or "/"
            if path != raw:
                scope["path"] = unquote(path)
        await self.app(scope, receive, send)
