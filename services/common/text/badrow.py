"""What is wrong with a row, in words that somebody with the file open can act on."""

from dataclasses import dataclass
from typing import Any

_SHOWN_CHARACTERS = 40


# `eq=False`: with a generated `__eq__` an exception could not be hashed.
@dataclass(eq=False)
class BadRow(Exception):
    """A row that nothing can be trained on."""

    column: str
    """The column at fault, as `messages[2].content`; empty where it is the row itself."""
    limit: str
    """What it should be."""
    actual: str
    """What it is."""
    place: str = ""
    """Where it stands in the file, `line 17`; empty where only the row is known."""

    @property
    def item(self) -> str:
        """`line 17, column messages`, as much of it as is known."""
        column = f"column {self.column}" if self.column else ""
        return ", ".join(filter(None, (self.place, column))) or "the row"

    @property
    def detail(self) -> str:
        """What it should be and what it is."""
        return f"{self.limit}, but found {self.actual}"

    def at(self, place: str) -> "BadRow":
        """Return the same error with its place in the file."""
        return BadRow(self.column, self.limit, self.actual, place)

    def __str__(self) -> str:
        return f"{self.item}: {self.detail}"


def shown(value: Any) -> str:
    """Return what a value is, short enough for an error: `a number (5)`, `nothing (null)`, `a list of 3`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"a number ({value:.6g})" if isinstance(value, float) else f"a number ({cut(str(value))})"
    if isinstance(value, str):
        return f"the text {cut(value)!r}" if value else "an empty text"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return f"an object with {listed(value)}" if value else "an empty object"
    return f"a value of type {type(value).__name__}"


def listed(names: Any, limit: int = 8) -> str:
    """Return names in a list that stays short: `a, b and 40 more`."""
    known = [cut(str(name)) for name in names]
    if not known:
        return "none"
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + more


def cut(text: str) -> str:
    """Return a text, or its beginning where it is long; what no terminal should print is escaped."""
    text = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
