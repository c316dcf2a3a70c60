"""Single values of a row: text, and what a CSV cell can only hold as JSON."""

import json
from typing import Any

from services.common.text.badrow import BadRow, shown


def read_text(column: str, value: Any, *, may_be_empty: bool = False) -> str:
    """Return a text that can be trained on. Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(column, "text", shown(value))
    if not value.strip() and not may_be_empty:
        raise BadRow(column, "text that says something", "only white space" if value else "an empty text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a pair (\ud83d); tokenizers refuse it in the middle of a run.
        found = f"half of a surrogate pair at character {error.start + 1}"
        raise BadRow(column, "text of whole characters", found) from None
    return value


def optional_text(column: str, value: Any) -> str:
    """Return a text that may be left out; then it is empty. Raises BadRow."""
    return "" if value is None else read_text(column, value, may_be_empty=True)


def decoded(value: Any) -> Any:
    """Return what a text holds that is a conversation as JSON; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    turns = read if isinstance(read, list) else [read]
    return read if turns and all(map(_is_turn, turns)) else value


def decoded_json(column: str, value: Any) -> Any:
    """Return a value, read where it is JSON in a text. Raises BadRow for a text that is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise BadRow(column, "JSON, as in a cell of CSV", shown(value)) from None


def without_nulls(value: Any) -> Any:
    """Return a value without the fields that are null: Parquet gives every object all fields of any."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def _is_turn(value: Any) -> bool:
    spellings = ({"role", "content"}, {"from", "value"})
    return isinstance(value, dict) and any(keys <= value.keys() for keys in spellings)
