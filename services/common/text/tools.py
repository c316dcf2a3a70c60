"""Tools that a conversation may call, and its calls."""

import json
from collections.abc import Mapping
from typing import Any

from services.common.text.badrow import BadRow, shown
from services.common.text.values import decoded_json, read_text, without_nulls


def read_tools(column: str, value: Any) -> list[dict[str, Any]]:
    """Return the descriptions of a conversation's tools, or none. Raises BadRow."""
    # Tools differ from row to row: files of fixed columns hold them as JSON in a text.
    value = decoded_json(column, value or None)
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRow(column, "a list of tools as JSON schemas", shown(value))
    tools: list[dict[str, Any]] = without_nulls(value)
    _refuse_unprintable(column, tools)
    return tools


def read_tool_calls(column: str, value: Any) -> list[dict[str, Any]]:
    """Return a turn's calls as chat templates read them, arguments as objects. Raises BadRow."""
    value = decoded_json(column, value or None)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise BadRow(column, "a list of calls", shown(value))
    return [_call(f"{column}[{index}]", call) for index, call in enumerate(value)]


def read_function_call(column: str, value: Any) -> list[dict[str, Any]]:
    """Return the calls that ShareGPT writes as a turn's text. Raises BadRow."""
    read = decoded_json(column, value)
    return read_tool_calls(column, read if isinstance(read, list) else [read])


def _call(column: str, value: Any) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow(column, 'a call ({"name": ..., "arguments": ...})', shown(value))
    # Templates print arguments as JSON: a text would be encoded a second time.
    arguments = decoded_json(f"{column}.arguments", function.get("arguments") or {})
    if not isinstance(arguments, Mapping):
        raise BadRow(f"{column}.arguments", "an object", shown(arguments))
    call: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": without_nulls(arguments)},
    }
    _refuse_unprintable(column, call)
    return {"id": value["id"], **call} if isinstance(value.get("id"), str) else call


def _refuse_unprintable(column: str, value: Any) -> None:
    """Refuse what no template can print as JSON, such as a date from Parquet."""
    try:
        printed = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise BadRow(column, "values that JSON can hold", str(error)) from None
    read_text(column, printed)
