"""The rows of a file, one after the other, as the file spells them: JSON lines, CSV and Parquet."""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from services.common.specs import DatasetFormat
from services.common.text.badrow import BadRow, listed, shown
from services.common.text.parquet import MAX_COLUMNS, parquet_columns, parquet_facts, read_parquet

__all__ = ["BadRow", "columns_of", "parquet_facts", "place", "read_rows"]

_MAX_LINE_BYTES = 1 << 31
_WIDE = ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


def read_rows(
    path: Path,
    format: DatasetFormat,
    columns: Collection[str] | None = None,
    max_row_bytes: int = _MAX_LINE_BYTES,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers, as `place` says them; memory holds one row, or one batch of Parquet.

    Args:
        path: The file.
        format: JSONL, CSV or PARQUET.
        columns: Columns of a Parquet file to read, for it can leave out the others; default: all.
        max_row_bytes: The longest line that is taken.

    Raises:
        BadRow: the file is broken at some place, which the error names.
        MemoryError: a row is larger than memory.
    """
    if format == DatasetFormat.PARQUET:
        return read_parquet(path, columns)
    if format == DatasetFormat.CSV:
        return _read_csv(path, max_row_bytes)
    return _read_jsonl(path, max_row_bytes)


def columns_of(path: Path, format: DatasetFormat, max_row_bytes: int = _MAX_LINE_BYTES) -> list[str]:
    """Return a file's columns: of its schema, its header, or its first row. Raises BadRow."""
    if format == DatasetFormat.PARQUET:
        return parquet_columns(path)
    for _, row in read_rows(path, format, max_row_bytes=max_row_bytes):
        return list(row)
    raise BadRow("", "at least one row", "none", "the file")


def place(format: DatasetFormat, number: int) -> str:
    """Return where row `number` of `read_rows` stands, in words: `line 17`, or `row 17` of a Parquet file."""
    return f"{'row' if format == DatasetFormat.PARQUET else 'line'} {number}"


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, str]]:
    """Yield lines with their ends. A line's length is known before memory holds all of it."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        where = f"line {number}"
        if len(line) > max_bytes:
            raise BadRow("", f"at most {max_bytes} bytes in a line", "more", where)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
            for mark, name in _WIDE:
                if line.startswith(mark):
                    raise BadRow("", "a file in UTF-8", f"one in {name}", where)
        if b"\0" in line:
            raise BadRow("", "a file in UTF-8", "NUL bytes, as in UTF-16 or a file that is broken", where)
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            found = f"the byte 0x{line[error.start]:02x} at position {error.start + 1}, which is none of it"
            raise BadRow("", "a file in UTF-8", found, where) from None


def _read_jsonl(path: Path, max_bytes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in _lines(file, max_bytes):
            if line.strip():
                try:
                    yield number, _object(line)
                except BadRow as error:
                    raise error.at(f"line {number}") from None


def _object(line: str) -> dict[str, Any]:
    """Return a line's JSON object. Raises BadRow."""
    try:
        row = _DECODER.decode(line)
    except RecursionError:
        raise BadRow("", "JSON nested at most some hundred levels deep", "a deeper one") from None
    except json.JSONDecodeError as error:
        raise _no_json(line, error) from None
    except ValueError as error:
        raise BadRow("", "JSON", str(error)) from None
    if isinstance(row, list):
        raise BadRow("", "one JSON object in each line", "a JSON array: write each of its objects in a line")
    if not isinstance(row, dict):
        raise BadRow("", "one JSON object in each line", shown(row))
    _refuse_many(len(row))
    return row


def _no_json(line: str, error: json.JSONDecodeError) -> BadRow:
    limit, text = "one JSON object in each line", line.strip()
    if text == "[":
        return BadRow("", limit, "the beginning of a JSON array: write each of its objects in a line")
    if text == "{":
        return BadRow("", limit, "an object spread over several lines")
    return BadRow("", limit, f"{error.msg[0].lower()}{error.msg[1:]} at character {error.colno}")


def _refuse_constant(name: str) -> NoReturn:
    raise BadRow("", "JSON, which knows no such number", name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BadRow("", "every name once in an object", f"{name!r} twice")
    return made


# One for all lines: `json.loads` would make one for each.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _refuse_many(count: int) -> None:
    if count > MAX_COLUMNS:
        raise BadRow("", f"at most {MAX_COLUMNS} columns", f"{count}")


def _read_csv(path: Path, max_bytes: int) -> Iterator[tuple[int, dict[str, Any]]]:
    # Its own limit, 128 KiB, is short for a document.
    csv.field_size_limit(max_bytes)
    with path.open("rb") as file:
        reader = csv.reader((line for _, line in _lines(file, max_bytes)), strict=True)
        header: list[str] = []
        while True:
            # A quoted cell may hold many lines: the row is where its first one is.
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                found = str(error).partition(" - ")[0]
                raise BadRow("", "CSV with quoted cells that end", found, f"line {number}") from None
            if cells is None:
                return
            if not cells:
                continue
            if not header:
                header = cells
                _check_header(header, number)
                continue
            if len(cells) != len(header):
                limit = f"{len(header)} cells, as the header has"
                raise BadRow("", limit, f"{len(cells)}", f"line {number}")
            yield number, dict(zip(header, cells, strict=True))


def _check_header(header: list[str], number: int) -> None:
    where = f"line {number}"
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise BadRow("", "every column once in the header", f"{listed(map(repr, twice))} twice", where)
    if len(header) > MAX_COLUMNS:
        raise BadRow("", f"at most {MAX_COLUMNS} columns", f"{len(header)}", where)
