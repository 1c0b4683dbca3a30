"""Format of log lines in every process: text for people, or JSON for collectors.

Why not python-json-logger (4.2): it would replace the twelve lines of JSONFormatter.format by as many of options, and
puts every attribute a library adds to a record into the line; here the fields are a fixed list. It has no text format.
"""

import json
import logging
import sys
import time

FIELDS = ("request_id", "worker", "method", "path", "status", "milliseconds", "tenant")
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JSONFormatter(logging.Formatter):
    """Formats each record as one JSON object per line, with the fields of its request beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """Formats each record as one line, even if its message has line breaks; a traceback follows on further lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


def configure_logs(level: str, log_format: str) -> None:
    """Sends log lines to standard error, in one of LOG_LEVELS and LOG_FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # one line per request of the hub's client and of webhooks
    logging.captureWarnings(True)  # so that warnings are log lines too


def request_fields(request_id: str) -> dict[str, str]:
    """`extra` of a log line about a request: its id without the suffix after "/", which the server adds.

    The suffix keeps ids unique where clients send the same x-request-id twice.
    """
    return {"request_id": request_id.partition("/")[0]}
