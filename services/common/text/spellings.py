"""Every spelling of rows that is not plain text, and how it becomes a canonical row."""

from collections.abc import Callable, Mapping
from typing import Any

from services.common.text.badrow import BadRow, listed, shown
from services.common.text.pairs import completed, preferred, read_side
from services.common.text.tools import read_tools
from services.common.text.turns import Turn, read_conversation
from services.common.text.values import optional_text, read_text


def needed(row: Mapping[str, Any], column: str) -> Any:
    """Return a column's value. Raises BadRow."""
    if column not in row:
        raise BadRow(column, "a value in every row", f"a row with {listed(row)}")
    return row[column]


def _messages(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = read_conversation("messages", needed(row, "messages"), answered=True)
    return {"messages": turns, **_tools(row)}


def _sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = read_conversation("conversations", needed(row, "conversations"), answered=True)
    return {"messages": _system(row) + turns, **_tools(row)}


def _prompt_completion(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt = read_side("prompt", needed(row, "prompt"), answered=False)
    completion = read_side("completion", needed(row, "completion"), answered=True)
    return _with_tools(completed(prompt, completion), row)


def _preference(row: Mapping[str, Any]) -> dict[str, Any]:
    given = row.get("prompt")
    prompt = None if given is None else read_side("prompt", given, answered=False)
    return _with_tools(preferred(prompt, *_answers(row)), row)


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    output = read_text("output", needed(row, "output"))
    return {"prompt": _alpaca_prompt(row), "completion": [_turn("assistant", output)]}


def _alpaca_preference(row: Mapping[str, Any]) -> dict[str, Any]:
    chosen, rejected = (
        [_turn("assistant", side)] if isinstance(side, str) else side for side in _answers(row)
    )
    return preferred(_alpaca_prompt(row), chosen, rejected)


def _sharegpt_preference(row: Mapping[str, Any]) -> dict[str, Any]:
    asked = read_conversation("conversations", needed(row, "conversations"), answered=False)
    chosen, rejected = (
        [_turn("assistant", side)] if isinstance(side, str) else side for side in _answers(row)
    )
    return _with_tools(preferred(_system(row) + asked, chosen, rejected), row)


def _answers(row: Mapping[str, Any]) -> tuple[Any, Any]:
    chosen = read_side("chosen", needed(row, "chosen"), answered=True)
    return chosen, read_side("rejected", needed(row, "rejected"), answered=True)


def _alpaca_prompt(row: Mapping[str, Any]) -> list[Turn]:
    instruction = read_text("instruction", needed(row, "instruction"))
    more = optional_text("input", row.get("input"))
    asked = f"{instruction}\n\n{more}" if more.strip() else instruction
    return [*_system(row), *_history(row.get("history")), _turn("user", asked)]


def _history(value: Any) -> list[Turn]:
    """Return the turns before an Alpaca instruction: pairs of what was asked and answered."""
    turns = []
    for index, pair in enumerate(value or ()):
        column = f"history[{index}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow(column, "a pair of question and answer", shown(pair))
        asked, answered = (read_text(column, side) for side in pair)
        turns += [_turn("user", asked), _turn("assistant", answered)]
    return turns


def _system(row: Mapping[str, Any]) -> list[Turn]:
    text = optional_text("system", row.get("system"))
    return [_turn("system", text)] if text.strip() else []


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _tools(row: Mapping[str, Any]) -> dict[str, Any]:
    tools = read_tools("tools", row.get("tools"))
    return {"tools": tools} if tools else {}


def _with_tools(sides: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    # Plain text has no template that would mention tools.
    return sides if isinstance(sides["prompt"], str) else {**sides, **_tools(row)}


CONVERTERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
    "alpaca": _alpaca,
    "alpaca_preference": _alpaca_preference,
    "sharegpt_preference": _sharegpt_preference,
}
