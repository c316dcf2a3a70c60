"""What the command prints: tables and sentences for people, or JSON for scripts."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Column, Table
from rich.text import Text

from weighbridge.exceptions import CallError, SpecError, WeighbridgeError

# A pipe has no width; a table cut to 80 columns would lose what a script looks for.
_PIPE_WIDTH = 160
_PROSE_WIDTH, _PADDING = 16, 3


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console on the stream as it is now, as wide as that or as `width`."""
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, width=width or (_PIPE_WIDTH if piped else None), highlight=False)


def say(text: str | Text, style: str | None = None) -> None:
    """Print a sentence; it is not taken for markup."""
    console().print(text if isinstance(text, Text) else Text(text, style or ""), soft_wrap=True)


def note(text: str) -> None:
    """Print a remark to standard error, beside what the command prints."""
    console(stderr=True).print(Text(text, "dim"), soft_wrap=True)


def table(*columns: str, right: Iterable[str] = (), prose: Iterable[str] = ()) -> Table:
    """Return an empty table; columns in `right` hold figures, those in `prose` wrap where it is narrow."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        side: JustifyMethod = "right" if column in right else "left"
        made.add_column(column, justify=side, overflow="fold", no_wrap=column not in prose)
    return made


def show(made: Table) -> None:
    """Print a table. Where it is too wide, the terminal breaks its lines: a cut id could not be used."""
    target = console()
    least = sum(map(_least_width, made.columns))
    console(width=least if least > target.width else None).print(made)


def _least_width(column: Column) -> int:
    longest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return (longest if column.no_wrap else min(longest, _PROSE_WIDTH)) + _PADDING


def json_line(value: Message | Mapping[str, Any]) -> None:
    """Print one JSON object in one line; a message with the contract's field names."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def plain(value: Message | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message as JSON has it, with the contract's field names."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    return value


def failed(error: Exception, *, as_json: bool) -> None:
    """Print an error to standard error."""
    if as_json:
        sys.stderr.write(json.dumps({"error": _fields(error)}, ensure_ascii=False) + "\n")
        return
    errors = console(stderr=True)
    errors.print(Text.assemble(("error: ", "bold red"), _text(error)), soft_wrap=True)
    if isinstance(error, CallError):
        for field, fault in error.violations.items():
            if field not in str(error):
                errors.print(Text(f"  {field}: {fault}"), soft_wrap=True)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _fields(error: Exception) -> dict[str, Any]:
    if isinstance(error, SpecError):
        problems = [asdict(problem) for problem in error.problems]
        return {"reason": "INVALID_SPEC", "message": str(error), "problems": problems}
    if isinstance(error, CallError):
        return {
            "reason": error.reason,
            "message": error.message,
            "metadata": dict(error.metadata),
            "violations": dict(error.violations),
        }
    reason = type(error).__name__ if isinstance(error, WeighbridgeError) else "UNEXPECTED"
    return {"reason": reason, "message": _text(error)}
