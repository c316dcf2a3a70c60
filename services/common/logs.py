"""Structured logs on stderr: one JSON object a line, or text for people.

Write a fixed sentence and put what varies into `extra`: `log.info("job queued", extra={"job": name})`. The
id and the trace of the call being served are added to every record.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from services.common.context import current_request_id
from services.common.telemetry import current_trace_id

# Whatever a record has beyond these came in through `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "request_id",
    "trace_id",
}


def configure(service: str, log_format: Literal["json", "console"], level: str) -> None:
    """Send every log record of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if log_format == "json" else ConsoleFormatter())
    # On the handler: a logger's filter does not see what its children log.
    handler.addFilter(_add_call)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # At DEBUG grpc writes a line for every look at its event loop.
    logging.getLogger("grpc").setLevel(logging.INFO)


def _add_call(record: logging.LogRecord) -> bool:
    record.request_id = current_request_id()
    record.trace_id = current_trace_id()
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    call = {key: vars(record).get(key) for key in ("request_id", "trace_id")}
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {key: value for key, value in (extra | call).items() if value not in ("", None)}


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, on one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update((key, value) for key, value in _fields(record).items() if key not in entry)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """Formats a record as a line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line: time, severity, message and fields."""
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        return f"{super().formatMessage(record)} {fields}".rstrip()
