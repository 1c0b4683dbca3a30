"""Log lines as text and as JSON."""

import json
import logging
import sys

import pytest

from engine.logs import TEXT, JSONFormatter, TextFormatter, request_fields


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    log_record = logging.LogRecord("sana.access", logging.INFO, __file__, 1, message, args, None)
    log_record.__dict__.update(extra)
    return log_record


def test_json_log_has_request_fields() -> None:
    line = JSONFormatter().format(record("%s GET", "id-1", request_id="id-1", status=200, milliseconds=1.5, other=1))
    fields = json.loads(line)
    assert fields["message"] == "id-1 GET"
    assert (fields["request_id"], fields["status"], fields["milliseconds"]) == ("id-1", 200, 1.5)
    assert (fields["level"], fields["logger"]) == ("info", "sana.access")
    assert fields["time"].endswith("Z")
    assert "other" not in fields


@pytest.mark.parametrize("formatter", [JSONFormatter(), TextFormatter(TEXT)])
@pytest.mark.parametrize("message", ["a\nforged line", "a\r\nforged", "\x1b[2J\u2028", "half \ud800"])
def test_log_record_is_one_line(formatter: logging.Formatter, message: str) -> None:
    line = formatter.format(record("%s", message))
    assert "\n" not in line
    assert "\r" not in line


def test_request_fields_drop_server_suffix() -> None:
    line = JSONFormatter().format(record("failed", **request_fields("id-1/0a1b2c3d")))
    assert json.loads(line)["request_id"] == "id-1"
    assert request_fields("id-1") == {"request_id": "id-1"}


def test_log_traceback_kept() -> None:
    failed = record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        failed.exc_info = sys.exc_info()
    assert "ValueError: why" in json.loads(JSONFormatter().format(failed))["traceback"]
    assert "ValueError: why" in TextFormatter(TEXT).format(failed)
