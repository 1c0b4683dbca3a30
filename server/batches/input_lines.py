"""The lines of an uploaded file: splitting them in bounded memory, and the errors that fail a whole batch."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..body import parse_json
from .schema import storable

MAX_CUSTOM_ID_CHARS = 512


class LineError(Exception):
    """A line that is no request. Attributes are those of OpenAI's batch errors, without the line's number."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def split_lines(pieces: Iterable[bytes], limit: int, most: int) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) for each line that is not blank. A line longer than `limit` is cut behind it.

    Ends with the first line beyond `most`, blank or not, so that a file of line ends alone takes no minutes.
    """
    number, start = 1, b""
    for piece in pieces:
        first, *others = piece.split(b"\n")
        start += first[: limit + 1 - len(start)]
        for other in others:
            if start.strip() or number > most:
                yield number, start
            if number > most:
                return
            number, start = number + 1, other[: limit + 1]
    if start.strip():
        yield number, start


def custom_id_of(line: bytes, endpoint: str, limit: int) -> str:
    """The custom_id of a line that is a request to `endpoint`. Raises LineError for one that is not."""
    if len(line) > limit:
        raise LineError("line_too_long", f"The line must not exceed {limit} bytes; --max-body-bytes raises the limit.")
    request = parse_object(line)
    for name in ("custom_id", "method", "url", "body"):
        if request.get(name) is None:
            raise LineError("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    if request["method"] != "POST":
        raise LineError("invalid_method", "The method of each request must be POST.", "method")
    if request["url"] != endpoint:
        message = f"The URL of each request must be the endpoint of the batch, {endpoint}."
        raise LineError("url_mismatch", message, "url")
    if not isinstance(request["body"], dict):
        raise LineError("invalid_type", "The body must be an object.", "body")
    custom_id = request["custom_id"]
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARS or not storable(custom_id):
        message = f"The custom_id must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters."
        raise LineError("invalid_custom_id", message, "custom_id")
    return custom_id


def body_of(line: bytes) -> dict[str, Any]:
    """The body of a valid line, without its null entries, which mean "absent"."""
    return {name: value for name, value in parse_object(line)["body"].items() if value is not None}


def parse_object(line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise LineError("invalid_json_line", "This line is not parseable as valid JSON.")
    return value
