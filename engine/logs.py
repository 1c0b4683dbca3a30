"""What a line of the log looks like, in every process: for a person, or as JSON for a collector."""

import json
import logging
import sys
import time

FIELDS = ("request_id", "worker", "method", "path", "status", "milliseconds", "tenant")
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JSONFormatter(logging.Formatter):
    """One object per line; the fields of a request stand beside its message."""

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
    """One line per record, whatever stands in its message; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


def configure_logs(level: str, log_format: str) -> None:
    """On standard error; one of LOG_LEVELS and of LOG_FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)  # they are lines of the log as well


def named(request_id: str) -> dict[str, str]:
    """`extra` of a line about a request: what its caller named it. Behind a slash stands what tells twins apart."""
    return {"request_id": request_id.partition("/")[0]}
