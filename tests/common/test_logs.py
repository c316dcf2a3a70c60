import json
import logging

from services.common.logs import ConsoleFormatter, JsonFormatter


def record(message: str = "job queued", **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "x", **extra})
    made.request_id = "r1"
    made.trace_id = ""
    return made


def test_a_record_is_one_json_object_on_one_line() -> None:
    line = JsonFormatter("gateway").format(record("two\nlines", job="j1", count=2, path=object))
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["message"], entry["job"], entry["count"], entry["request_id"]) == (
        "two\nlines",
        "j1",
        2,
        "r1",
    )
    assert (entry["service"], entry["severity"]) == ("gateway", "INFO")
    assert "trace_id" not in entry


def test_a_field_cannot_replace_what_every_record_has() -> None:
    entry = json.loads(JsonFormatter("gateway").format(record(service="evil", severity="evil")))
    assert (entry["service"], entry["severity"]) == ("gateway", "INFO")


def test_people_see_message_and_fields() -> None:
    assert ConsoleFormatter().format(record(job="j1")).endswith("INFO    job queued job=j1 request_id=r1")
