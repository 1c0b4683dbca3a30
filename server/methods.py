"""HEAD wherever GET is answered, as HTTP wants it: load balancers and `wget --spider` ask so."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware: routes know GET alone; a HEAD gets the answer's head, and its body is dropped."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                headers = MutableHeaders(scope=message)
                if headers["allow"] == "GET":
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
