"""Reads a multipart/form-data body of files and fields, piece by piece: the files are never in memory here."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from engine import InvalidParams

from .body import BODY_SECONDS, check_encoding
from .http_errors import BodyTooLarge, InvalidBody, RequestTooSlow, UnsupportedContentType

MAX_FIELD_BYTES = 10_000
MAX_PARTS = 20
MAX_HEADER_BYTES = 4000  # of a part; older versions of the parser know no limit
PLAIN = ("", "7bit", "8bit", "binary")
"""Values of Content-Transfer-Encoding by which the content is sent as it is."""
LONG_NAME = re.compile(rb"filename\*=utf-8'[^']*'([^;]*)", re.IGNORECASE)
"""A name of other than ASCII letters as older clients send it (RFC 5987), which the parser drops."""
Event = tuple[str, bytes]


async def read_form(
    request: Request,
    limit: int,
    write: Callable[[str, bytes], Awaitable[None]],
    files: Collection[str] = ("file",),
    field_bytes: int = MAX_FIELD_BYTES,
) -> tuple[dict[str, str], dict[str, str]]:
    """The fields of the form, and the file names of the parts named in `files`. `write` gets a part and some content.

    Raises UnsupportedContentType, UnsupportedEncoding, BodyTooLarge beyond `limit` bytes, RequestTooSlow, InvalidBody,
    or InvalidParams for a file that is sent twice.
    """
    check_encoding(request)
    parts = FormParts(request, files, field_bytes)
    size = 0
    async for piece in pieces_in_time(request):
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(f"the body must not exceed {limit} bytes")
        for part, data in parts.feed(piece):
            await write(part, data)
    return parts.finish(), parts.filenames


async def pieces_in_time(request: Request) -> AsyncGenerator[bytes]:
    """The body; a pause of BODY_SECONDS ends it, while the whole may take hours."""
    stream = request.stream()
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), BODY_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestTooSlow(f"the body must not pause for {BODY_SECONDS:g} s") from None


class FormParts:
    """The parts of a form, as far as they have arrived.

    Args:
        files: names of the parts that are files.
        field_bytes: maximum bytes of a field.
    """

    def __init__(self, request: Request, files: Collection[str], field_bytes: int) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            shown = kind.decode("latin-1")[:100] or "none"
            raise UnsupportedContentType(f"Content-Type must be multipart/form-data with a boundary, got {shown}")
        self.filenames: dict[str, str] = {}
        self._fields: dict[str, bytearray] = {}
        self._files, self._field_bytes = files, field_bytes
        self._events: list[Event] = []
        callbacks = {
            "on_part_begin": lambda: self._events.append(("part", b"")),
            "on_part_data": self._record("data"),
            "on_header_field": self._record("name"),
            "on_header_value": self._record("value"),
            "on_header_end": lambda: self._events.append(("header", b"")),
            "on_end": lambda: self._events.append(("end", b"")),
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise InvalidBody(f"the body must be valid multipart/form-data: {error}") from None
        self._header = [b"", b""]
        self._header_bytes = 0
        self._part = ""
        self._count = 0
        self._ended = False

    def feed(self, piece: bytes) -> list[tuple[str, bytes]]:
        """Data of the files in this piece of the body, each with the name of its part. Raises InvalidBody."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise InvalidBody(f"the body must be valid multipart/form-data: {error}") from None
        events, self._events[:] = list(self._events), []
        return [(self._part, data) for kind, data in events if self._is_file(kind, data)]

    def finish(self) -> dict[str, str]:
        """The fields. Raises InvalidBody if the form is incomplete."""
        if not self._ended:
            raise InvalidBody("the body must be valid multipart/form-data, but ends before its last boundary")
        return {name: data.decode("utf-8", "replace") for name, data in self._fields.items()}

    def _record(self, kind: str) -> Callable[[bytes, int, int], None]:
        return lambda data, start, end: self._events.append((kind, data[start:end]))

    def _is_file(self, kind: str, data: bytes) -> bool:
        """Takes one event of the parser, and returns whether it is data of a file."""
        if kind == "part":
            self._part, self._header, self._header_bytes, self._count = "", [b"", b""], 0, self._count + 1
            if self._count > MAX_PARTS:
                raise InvalidBody(f"the form must have at most {MAX_PARTS} parts")
        elif kind in ("name", "value"):
            self._header[kind == "value"] += data
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                raise InvalidBody(f"the headers of a part of the form must not exceed {MAX_HEADER_BYTES} bytes")
        elif kind == "header":
            self._take_header()
        elif kind == "end":
            self._ended = True
        elif kind == "data" and self._part in self._files:
            return True
        elif kind == "data" and self._part:
            self._fields[self._part] += data
            if len(self._fields[self._part]) > self._field_bytes:
                raise InvalidBody(f"the form's field {self._part[:60]!r} must not exceed {self._field_bytes} bytes")
        return False

    def _take_header(self) -> None:
        (name, value), self._header = self._header, [b"", b""]
        if name.lower() == b"content-transfer-encoding" and (shown := value.decode("latin-1")).lower() not in PLAIN:
            raise InvalidBody(f"Content-Transfer-Encoding must be binary, got {shown[:40]}")
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part not in self._files:
            self._fields[self._part] = bytearray()
            return
        if self._part in self.filenames:
            raise InvalidParams(f"the form must have one part named '{self._part}', got two", self._part)
        long_name = LONG_NAME.search(value)
        filename = unquote_to_bytes(long_name[1]) if long_name else options.get(b"filename", b"")
        self.filenames[self._part] = filename.decode("utf-8", "replace")
