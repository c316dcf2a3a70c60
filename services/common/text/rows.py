"""Rows of text in the spellings that data sets come in, converted into four canonical shapes.

=================== =============================================================== ==================
source              columns                                                         shape
=================== =============================================================== ==================
text                `text`, or the column that a spec names                         TEXT
messages            `messages`, optionally `tools`                                  MESSAGES
prompt_completion   `prompt`, `completion`                                          PROMPT_COMPLETION
preference          `chosen`, `rejected`, optionally `prompt`                       PREFERENCE
alpaca              `instruction`, `output`, optionally `input`, `system`, `history` PROMPT_COMPLETION
alpaca_preference   `instruction`, `chosen`, `rejected`, optionally as above        PREFERENCE
sharegpt            `conversations`, optionally `system`, `tools`                   MESSAGES
sharegpt_preference `conversations`, `chosen`, `rejected`                           PREFERENCE
=================== =============================================================== ==================
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from services.common.specs import RowShape
from services.common.text.badrow import BadRow, listed
from services.common.text.spellings import CONVERTERS, needed
from services.common.text.values import read_text

__all__ = ["BadRow", "RowFormat", "convert", "recognise", "unrecognised", "used_columns"]

TEXT_FIELD = "text"
_PROMPTING = ("instruction", "input", "system", "history")


@dataclass(frozen=True)
class RowFormat:
    """How a file spells its rows."""

    shape: RowShape
    """What they become."""
    source: str
    """Their spelling, as the table above names it."""


# The first whose columns are all there: `text` is last, for many data sets carry a rendered copy under it.
_FORMATS: tuple[tuple[set[str], RowFormat], ...] = (
    ({"prompt", "chosen", "rejected"}, RowFormat(RowShape.PREFERENCE, "preference")),
    ({"conversations", "chosen", "rejected"}, RowFormat(RowShape.PREFERENCE, "sharegpt_preference")),
    ({"instruction", "chosen", "rejected"}, RowFormat(RowShape.PREFERENCE, "alpaca_preference")),
    ({"chosen", "rejected"}, RowFormat(RowShape.PREFERENCE, "preference")),
    ({"messages"}, RowFormat(RowShape.MESSAGES, "messages")),
    ({"conversations"}, RowFormat(RowShape.MESSAGES, "sharegpt")),
    ({"prompt", "completion"}, RowFormat(RowShape.PROMPT_COMPLETION, "prompt_completion")),
    ({"instruction", "output"}, RowFormat(RowShape.PROMPT_COMPLETION, "alpaca")),
)
_TEXT = RowFormat(RowShape.TEXT, "text")
_USED = {
    "messages": ("messages", "tools"),
    "prompt_completion": ("prompt", "completion", "tools"),
    "preference": ("prompt", "chosen", "rejected", "tools"),
    "alpaca": (*_PROMPTING, "output"),
    "alpaca_preference": (*_PROMPTING, "chosen", "rejected"),
    "sharegpt": ("conversations", "system", "tools"),
    "sharegpt_preference": ("conversations", "chosen", "rejected", "system", "tools"),
}
# What other data sets call the columns above.
_SYNONYMS = {
    **dict.fromkeys(("response", "answer", "answers", "target", "label", "summary"), "completion"),
    **dict.fromkeys(("question", "query", "source"), "prompt"),
    **dict.fromkeys(("conversation", "dialogue", "dialog", "chat"), "messages"),
    **dict.fromkeys(("content", "document", "body"), "text"),
}


def recognise(columns: Collection[str], text_field: str = TEXT_FIELD) -> RowFormat | None:
    """Return how rows with these columns are spelled; None where they say nothing that can be trained on.

    A `text_field` other than `text` is somebody's explicit choice, and wins over whatever else is there.
    """
    if text_field != TEXT_FIELD and text_field in columns:
        return _TEXT
    for names, found in _FORMATS:
        if names.issubset(columns):
            return found
    return _TEXT if text_field in columns else None


def unrecognised(columns: Collection[str], text_field: str = TEXT_FIELD) -> BadRow:
    """Return the error for rows that `recognise` makes nothing of, with the nearest thing that works."""
    limit = (
        f"the columns {text_field}, or messages, or prompt and completion, or prompt, chosen and rejected, "
        "or those of Alpaca or ShareGPT"
    )
    return BadRow("", limit, f"{listed(columns)}{_hint(columns)}")


def used_columns(fmt: RowFormat, text_field: str = TEXT_FIELD) -> frozenset[str]:
    """Return the columns that rows of a format may be read from; others are ignored."""
    return frozenset(_USED.get(fmt.source, (text_field,)))


def convert(row: Mapping[str, Any], fmt: RowFormat, text_field: str = TEXT_FIELD) -> dict[str, Any]:
    """Return a row in the canonical spelling of its shape.

    - TEXT: `{"text": str}`
    - MESSAGES: `{"messages": [turn, ...]}`
    - PROMPT_COMPLETION: `{"prompt": side, "completion": side}`
    - PREFERENCE: `{"prompt": side, "chosen": side, "rejected": side}`, the prompt always explicit

    A side is a text or a list of turns, all of a row of one kind; a turn is `{"role": str, "content": str}`
    (see `turns`). Rows of conversations may have `"tools"`.

    Raises:
        BadRow: the row cannot be trained on; it names the column, what it should be and what it is.
    """
    try:
        if fmt.source == "text":
            return {"text": read_text(text_field, needed(row, text_field))}
        return CONVERTERS[fmt.source](row)
    except RecursionError:
        raise BadRow("", "values nested at most some hundred levels deep", "a deeper one") from None


def _hint(columns: Collection[str]) -> str:
    known = {_SYNONYMS.get(name.strip().lower(), name.strip().lower()): name for name in columns}
    renamed = [
        f"{name!r} as {right}" for right, name in known.items() if right in _NAMES and name not in _NAMES
    ]
    if renamed:
        return f"; perhaps {', '.join(renamed)}"
    joined = next((name for name in columns for sign in ";\t|" if sign in name), "")
    return f"; separate columns by commas, not as in {joined[:40]!r}" if joined else ""


_NAMES = frozenset({"text", "messages", "prompt", "completion", "chosen", "rejected"})
