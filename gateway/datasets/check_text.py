"""Checks rows of text in a process of its own: `python -m gateway.datasets.check_text FILE LIMITS FORMAT`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.datasets.confined import answer, too_little_memory
from gateway.datasets.limits import Broken, Limits
from gateway.datasets.report import TextReport
from services.common.specs import DatasetFormat
from services.common.text.reading import columns_of, parquet_facts, place, read_rows
from services.common.text.rows import (
    TEXT_FIELD,
    BadRow,
    RowFormat,
    convert,
    recognise,
    unrecognised,
    used_columns,
)

Rows = Iterator[tuple[int, dict[str, Any]]]

_FAULTS = 10


def check(path: Path, limits: Limits, format: DatasetFormat) -> dict[str, Any]:
    """Return what a file of text holds, every row of it read once. Raises Broken."""
    try:
        if format == DatasetFormat.PARQUET:
            _check_footer(path, limits)
        columns = columns_of(path, format, limits.max_item_bytes)
        fmt, text_field = _spelling(path, format, columns, limits)
        used = used_columns(fmt, text_field)
        rows = read_rows(path, format, used, limits.max_item_bytes)
        report = TextReport(limits, fmt, text_field, ignored=[name for name in columns if name not in used])
        _convert_all(rows, format, report)
    except BadRow as error:
        raise Broken(error.item, error.limit, error.actual) from None
    except MemoryError:
        raise too_little_memory("the file", limits) from None
    return report.facts()


def _check_footer(path: Path, limits: Limits) -> None:
    """Refuse what a Parquet file says of itself, before a small file unpacks to all of that."""
    rows, unpacked_bytes = parquet_facts(path)
    if rows > limits.max_rows:
        raise Broken("the file", f"at most {limits.max_rows} rows", f"{rows}")
    if unpacked_bytes > limits.max_unpacked_bytes:
        raise Broken("the file", f"at most {limits.max_unpacked_bytes} bytes unpacked", f"{unpacked_bytes}")


def _spelling(path: Path, format: DatasetFormat, columns: list[str], limits: Limits) -> tuple[RowFormat, str]:
    """Return how rows are spelled, and which column holds plain text.

    A spec may name any column for plain text, and is not known yet: one column of text that stands alone can
    be meant only so.
    """
    found = recognise(columns)
    if found is not None:
        return found, TEXT_FIELD
    for _, row in read_rows(path, format, None, limits.max_item_bytes):
        texts = [name for name, value in row.items() if isinstance(value, str)]
        named = recognise(texts, texts[0]) if len(texts) == 1 else None
        if named is not None:
            return named, texts[0]
        break
    raise unrecognised(columns).at("the file")


def _convert_all(rows: Rows, format: DatasetFormat, report: TextReport) -> None:
    """Read every row into the report. Raises BadRow for the first at fault, with the places of others."""
    faults: list[BadRow] = []
    try:
        for number, row in rows:
            where = place(format, number)
            try:
                report.add(where, row, convert(row, report.format, report.text_field))
            except BadRow as error:
                faults.append(error.at(where))
                if len(faults) > _FAULTS:
                    break
    except BadRow as error:
        # The file itself ends here; rows before it may be at fault, too.
        faults.append(error)
    if faults:
        raise _together(faults)


def _together(faults: list[BadRow]) -> BadRow:
    first, *others = faults
    if not others:
        return first
    more = " and more" if len(faults) > _FAULTS else ""
    places = ", ".join(fault.place for fault in others[: _FAULTS - 1])
    return BadRow(first.column, first.limit, f"{first.actual}; faults also in {places}{more}", first.place)


if __name__ == "__main__":
    answer(lambda path, limits: check(path, limits, DatasetFormat(sys.argv[3])))
