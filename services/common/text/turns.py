"""Conversations: lists of turns, in the spelling of chat templates.

A turn is `{"role": ..., "content": text}`, with `tool_calls`, `tool_call_id`, `name` and the model's thinking
where they are given. Other spellings are converted: `from` and `value` (ShareGPT), a content of several text
parts, roles such as `human` and `gpt`, which chat templates would print as they are.
"""

from collections.abc import Mapping
from typing import Any

from services.common.text.badrow import BadRow, listed, shown
from services.common.text.tools import read_function_call, read_tool_calls
from services.common.text.values import decoded, read_text

Turn = dict[str, Any]

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", "assistant", "tool")
_SPELLINGS = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), ASSISTANT),
    **dict.fromkeys(("observation", "function", "function_response", "ipython"), "tool"),
}
# ShareGPT's own role for a call: its value is the call as JSON.
_CALL_ROLES = ("function_call", "tool_call")
_KEPT = ("name", "tool_call_id")
_THOUGHTS = ("reasoning_content", "thinking")


def read_conversation(column: str, value: Any, *, answered: bool) -> list[Turn]:
    """Return a conversation's turns; one object is a conversation of one turn.

    Raises:
        BadRow: it is none, or has no turn of the assistant though it must be `answered`.
    """
    value = decoded(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadRow(column, 'a list of turns ({"role": ..., "content": ...})', shown(value))
    if not value:
        raise BadRow(column, "at least one turn", "an empty list")
    turns = [_read_turn(f"{column}[{index}]", turn) for index, turn in enumerate(value)]
    if answered and not any(turn["role"] == ASSISTANT for turn in turns):
        roles = listed(dict.fromkeys(turn["role"] for turn in turns))
        raise BadRow(column, "a turn of the assistant to learn from", f"turns of {roles} only")
    return turns


def _read_turn(column: str, value: Any) -> Turn:
    if not isinstance(value, Mapping):
        raise BadRow(column, 'a turn ({"role": ..., "content": ...})', shown(value))
    sharegpt = "from" in value and "role" not in value
    role_key, content_key = ("from", "value") if sharegpt else ("role", "content")
    if value.get(role_key) is None:
        raise BadRow(f"{column}.{role_key}", f"one of {', '.join(ROLES)}", f"a turn with {listed(value)}")
    spelled = read_text(f"{column}.{role_key}", value[role_key])
    content = value.get(content_key)
    if spelled.lower() in _CALL_ROLES:
        calls = read_function_call(f"{column}.{content_key}", content)
        return {"role": ASSISTANT, "content": "", "tool_calls": calls}
    role = _SPELLINGS.get(spelled.strip().lower())
    if role is None:
        raise BadRow(f"{column}.{role_key}", f"one of {', '.join(ROLES)}", shown(spelled))
    turn: Turn = {"role": role}
    calls = read_tool_calls(f"{column}.tool_calls", value.get("tool_calls"))
    # A call may stand alone, a tool may answer nothing, and a system prompt is often left empty.
    may_be_empty = bool(calls) or role in ("tool", "system", "developer")
    turn["content"] = _content(f"{column}.{content_key}", content, may_be_empty)
    if calls:
        turn["tool_calls"] = calls
    for key in (*_KEPT, *_THOUGHTS):
        if value.get(key) is not None:
            turn[key] = read_text(f"{column}.{key}", value[key], may_be_empty=True)
    return turn


def _content(column: str, value: Any, may_be_empty: bool) -> str:
    if value is None and may_be_empty:
        return ""
    if isinstance(value, list | tuple):
        # A plain chat template would train on the Python spelling of the list.
        value = "".join(_part(f"{column}[{index}]", part) for index, part in enumerate(value))
    return read_text(column, value, may_be_empty=may_be_empty)


def _part(column: str, value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind != "text":
        found = f"a part of type {kind}" if kind else shown(value)
        raise BadRow(column, 'parts of text only ({"type": "text", "text": ...})', found)
    return read_text(f"{column}.text", value.get("text"), may_be_empty=True)
