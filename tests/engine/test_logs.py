import json
import logging
import sys

import pytest

from engine.logs import TEXT, JSONFormatter, TextFormatter, named


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("sana.access", logging.INFO, __file__, 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_json_holds_the_fields_of_the_request() -> None:
    line = JSONFormatter().format(record("%s GET", "id-1", request_id="id-1", status=200, milliseconds=1.5, other=1))
    told = json.loads(line)
    assert told["message"] == "id-1 GET"
    assert (told["request_id"], told["status"], told["milliseconds"]) == ("id-1", 200, 1.5)
    assert (told["level"], told["logger"]) == ("info", "sana.access")
    assert told["time"].endswith("Z")
    assert "other" not in told


@pytest.mark.parametrize("formatter", [JSONFormatter(), TextFormatter(TEXT)])
@pytest.mark.parametrize("message", ["a\nforged line", "a\r\nforged", "\x1b[2J\u2028", "half \ud800"])
def test_one_record_is_one_line(formatter: logging.Formatter, message: str) -> None:
    line = formatter.format(record("%s", message))
    assert "\n" not in line
    assert "\r" not in line


def test_a_line_about_a_request_names_it_as_its_caller_did() -> None:
    line = JSONFormatter().format(record("failed", **named("id-1/0a1b2c3d")))
    assert json.loads(line)["request_id"] == "id-1"
    assert named("id-1") == {"request_id": "id-1"}


def test_a_traceback_is_kept() -> None:
    made = record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: why" in json.loads(JSONFormatter().format(made))["traceback"]
    assert "ValueError: why" in TextFormatter(TEXT).format(made)
