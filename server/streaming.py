"""`stream=true`: server-sent events with OpenAI's names. Progress and heartbeats are comments, which clients skip.

A comment ends with one newline and stands before the lines of the next event: a blank line after it would make readers
that split at blank lines (openai-go before 3.43, @microsoft/fetch-event-source) parse an empty event.

Why not sse-starlette (3.7): it formats an event as one string, so an image of 40 MB in base64 would be split into lines
on the event loop; given bytes in pieces instead, it may send a ping between two pieces, inside the event. It replaces
uvicorn's exit handler when imported and ends streams at SIGTERM, where this server lets accepted requests finish.
"""

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

OPENING_SECONDS = 0.2  # the engine refuses within one turn of the event loop; later errors are sent as events
HEARTBEAT_SECONDS = 15.0  # proxies close connections that are silent for 30 to 60 s
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """The events of one request, sent as they come. Cancels the request when the client disconnects."""

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

    async def opened(self) -> "EventStream":
        """The stream, once the engine has not refused the request. Raises its refusal, which still gets a status."""
        await asyncio.wait((self.next_event,), timeout=OPENING_SECONDS)
        if self.next_event.done():
            self.next_event.result()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # not in lines(), which may never have been started
            self.next_event.cancel()
            await asyncio.gather(self.next_event, return_exceptions=True)
            await self.events.aclose()

    async def lines(self) -> AsyncGenerator[bytes]:
        finished = 0
        while True:
            await asyncio.wait((self.next_event,), timeout=HEARTBEAT_SECONDS)
            if not self.next_event.done():
                yield b": still generating\n"
                continue
            try:
                event = self.next_event.result()
            except StopAsyncIteration:
                return
            except Exception as error:
                extra = {"request_id": self.request_id}
                log.warning("stream ended with %s: %s", type(error).__name__, error, extra=extra)
                yield error_event(error)
                return
            self.next_event = asyncio.ensure_future(anext(self.events))
            if isinstance(event, Progress):
                yield f": image {event.image_index} step {event.step}/{event.steps}\n".encode()
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
    """One event with its image in base64. A thread encodes it: the event loop must stay free."""
    yield f"event: {described.type}\ndata: ".encode()
    async for piece in iterate_in_threadpool(json_pieces(described.model_dump_json().encode(), [image])):
        yield piece
    yield b"\n\n"


def error_event(error: Exception) -> bytes:
    """The event that ends a failed stream; the official clients raise an error when its data has the key `error`."""
    return b'event: error\ndata: {"type": "error", ' + error_body(error).removeprefix(b"{") + b"\n\n"
