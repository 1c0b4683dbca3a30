"""Lines of batch files without a database: splitting and errors."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batches.input_lines import LineError, body_of, custom_id_of, split_lines

ENDPOINT = "/v1/images/generations"
VALID = {"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": {"prompt": "a cat", "size": None}}


@given(st.binary(max_size=60), st.integers(1, 9))
def test_split_equals_splitting_at_once(content: bytes, size: int) -> None:
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    expected = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    assert list(split_lines(pieces, 100, 100)) == expected


def test_split_bounds_memory_of_endless_line() -> None:
    pieces = (b"x" * 1000 for _ in range(1000))
    ((number, line),) = split_lines(pieces, 64, 100)
    assert (number, len(line)) == (1, 65)


def test_lines_beyond_the_most_end_the_file() -> None:
    """Blank lines count, and what follows is not read."""

    def pieces() -> Iterator[bytes]:
        yield b"a\n\n"
        yield b"\n" * 10
        raise AssertionError("read on")

    assert list(split_lines(pieces(), 100, 5)) == [(1, b"a"), (6, b"")]


def test_valid_line_gives_custom_id_and_body() -> None:
    line = "\ufeff".encode() + json.dumps(VALID).encode() + b"\r"
    assert custom_id_of(line, ENDPOINT, 1000) == "a"
    assert body_of(line) == {"prompt": "a cat"}


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"custom_id": None}, "missing_required_parameter", "custom_id"),
        ({"body": None}, "missing_required_parameter", "body"),
        ({"method": None}, "missing_required_parameter", "method"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": "/v1/chat/completions"}, "url_mismatch", "url"),
        ({"body": [1]}, "invalid_type", "body"),
        ({"custom_id": 7}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "a\0"}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "\ud800"}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "a" * 513}, "invalid_custom_id", "custom_id"),
        ({"body": {"prompt": "a" * 9000}}, "line_too_long", None),
    ],
)
def test_invalid_line_error_names_code_and_param(changes: dict[str, object], code: str, param: str | None) -> None:
    with pytest.raises(LineError) as caught:
        custom_id_of(json.dumps({**VALID, **changes}).encode(), ENDPOINT, 8000)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"text"', b"\xff", b"[" * 100_000, b"nul"])
def test_line_without_json_object_refused(line: bytes) -> None:
    with pytest.raises(LineError) as caught:
        custom_id_of(line, ENDPOINT, 1_000_000)
    assert caught.value.code == "invalid_json_line"
