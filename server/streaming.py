"""`stream=true`: server-sent events with OpenAI's names. Progress and heartbeats are comments, which clients skip."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from engine import Event, Finished, GenerationParams, ModelInfo, Preview, Progress

from .http_errors import error_body
from .responses import describe_completed, describe_preview, json_pieces
from .schemas import CompletedEvent, PartialImageEvent

log = logging.getLogger("sana.streaming")

ADMISSION_SECONDS = 0.2  # a refusal comes within a turn of the event loop; afterwards errors go into the stream
HEARTBEAT_SECONDS = 15.0  # proxies cut connections that are silent for 30 to 60 s
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """Sends the events of one request as they come. Ends the request when the client leaves."""

    def __init__(
        self,
        params: GenerationParams,
        model: ModelInfo,
        events: AsyncGenerator[Event],
        headers: dict[str, str],
        request_id: str,
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.model = model
        self.events = events
        self.started = time.monotonic()
        self.next_event = asyncio.ensure_future(anext(events))
        super().__init__(self.lines(), headers={**HEADERS, **headers}, media_type="text/event-stream")

    async def admitted(self) -> "EventStream":
        """Raises what refuses the request, while it can still be told by a status."""
        await asyncio.wait((self.next_event,), timeout=ADMISSION_SECONDS)
        if self.next_event.done():
            self.next_event.result()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # here, because lines() may never have been started
            self.next_event.cancel()
            await asyncio.gather(self.next_event, return_exceptions=True)
            await self.events.aclose()

    async def lines(self) -> AsyncGenerator[bytes]:
        finished = 0
        while True:
            await asyncio.wait((self.next_event,), timeout=HEARTBEAT_SECONDS)
            if not self.next_event.done():
                yield b": still drawing\n\n"
                continue
            try:
                event = self.next_event.result()
            except StopAsyncIteration:
                return
            except Exception as error:
                about = {"request_id": self.request_id}
                log.warning("a stream ended with %s: %s", type(error).__name__, error, extra=about)
                yield error_event(error)
                return
            self.next_event = asyncio.ensure_future(anext(self.events))
            if isinstance(event, Progress):
                yield f": image {event.image_index} step {event.step}/{event.steps}\n\n".encode()
            elif isinstance(event, Preview):
                async for piece in event_pieces(describe_preview(self.params, self.model, event), event.image):
                    yield piece
            elif isinstance(event, Finished):
                seconds = time.monotonic() - self.started
                described = describe_completed(self.params, self.model, event, finished == 0, seconds)
                finished += 1
                async for piece in event_pieces(described, event.image):
                    yield piece


async def event_pieces(described: PartialImageEvent | CompletedEvent, image: bytes) -> AsyncGenerator[bytes]:
    """One event with its image in base64, which a thread makes."""
    yield f"event: {described.type}\ndata: ".encode()
    async for piece in iterate_in_threadpool(json_pieces(described.model_dump_json().encode(), [image])):
        yield piece
    yield b"\n\n"


def error_event(error: Exception) -> bytes:
    """The clients raise it as soon as they read `error` in the data."""
    return b'event: error\ndata: {"type": "error", ' + error_body(error).removeprefix(b"{") + b"\n\n"
