"""Rows come out of JSON lines, CSV and Parquet with their numbers, and a broken file is named by line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.common.specs import DatasetFormat
from services.common.text.reading import BadRow, columns_of, parquet_facts, place, read_rows

JSONL, CSV, PARQUET = DatasetFormat.JSONL, DatasetFormat.CSV, DatasetFormat.PARQUET
Read = Callable[..., list[tuple[int, dict[str, Any]]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return what reads the rows of a file with these bytes."""

    def read_bytes(data: bytes, format: DatasetFormat, **more: Any) -> list[tuple[int, dict[str, Any]]]:
        path = tmp_path / "data"
        path.write_bytes(data)
        return list(read_rows(path, format, **more))

    return read_bytes


def refused(read: Read, data: bytes, format: DatasetFormat, **more: Any) -> BadRow:
    with pytest.raises(BadRow) as caught:
        read(data, format, **more)
    return caught.value


def parquet(columns: dict[str, Any], **more: Any) -> bytes:
    target = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), target, **more)
    data: bytes = target.getvalue().to_pybytes()
    return data


def test_lines_are_numbered_as_an_editor_numbers_them(read: Read) -> None:
    assert read(b'{"a": 1}\n\n{"a": 2}', JSONL) == [(1, {"a": 1}), (3, {"a": 2})]
    assert place(JSONL, 3) == "line 3"
    assert place(PARQUET, 3) == "row 3"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_windows_line_ends_and_marks_are_no_trouble(read: Read, end: bytes) -> None:
    mark = b"\xef\xbb\xbf"
    assert read(mark + b'{"a": "x"}' + end + b'{"a": "y"}' + end, JSONL) == [(1, {"a": "x"}), (2, {"a": "y"})]
    rows = [(2, {"a": "x", "b": "1"}), (3, {"a": "y", "b": "2"})]
    assert read(mark + b"a,b" + end + b"x,1" + end + b"y,2" + end, CSV) == rows


@pytest.mark.parametrize(
    ("data", "line", "actual"),
    [
        (b'{"a": 1}\n{"a": }', 2, "expecting value at character 7"),
        (b'{"a": 1}{"a": 2}', 1, "extra data at character 9"),
        (b'[{"a": 1}]', 1, "a JSON array"),
        (b'[\n{"a": 1},\n{"a": 2}]', 1, "the beginning of a JSON array"),
        (b'{\n"a": 1}', 1, "an object spread over several lines"),
        (b'{"a": 1}\n"text"', 2, "the text 'text'"),
        (b'{"a": 1}\nnull', 2, "nothing (null)"),
        (b'{"a": NaN}', 1, "NaN"),
        (b'{"a": -Infinity}', 1, "-Infinity"),
        (b'{"a": 1, "a": 2}', 1, "'a' twice"),
        (b'{"a": "\xff"}', 1, "the byte 0xff at position 8"),
        ('{"a": 1}'.encode("utf-16"), 1, "one in UTF-16"),
        ('{"a": 1}'.encode("utf-16-be"), 1, "NUL bytes"),
        (b'{"a": 1}\n' + bytes(100), 2, "NUL bytes"),
        (b'{"a": ' + b"[" * 9999 + b"]" * 9999 + b"}", 1, "a deeper one"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "integer string conversion"),
        (json.dumps(dict.fromkeys(map(str, range(1001)))).encode(), 1, "1001"),
        (b'{"a": "' + b"x" * 200_000 + b'"}', 1, "more"),
    ],
)
def test_bad_lines_are_named(read: Read, data: bytes, line: int, actual: str) -> None:
    error = refused(read, data, JSONL, max_row_bytes=100_000)
    assert error.place == f"line {line}"
    assert actual in error.actual


def test_a_cell_of_csv_may_hold_lines_commas_and_quotes(read: Read) -> None:
    rows = read(b'a,b\n"one\ntwo","x, ""y"""\nlast,z\n', CSV)
    assert rows == [(2, {"a": "one\ntwo", "b": 'x, "y"'}), (4, {"a": "last", "b": "z"})]


def test_a_document_longer_than_pythons_own_limit_of_a_cell(read: Read) -> None:
    assert len(read(b"text\n" + b"x" * 200_000, CSV)[0][1]["text"]) == 200_000


@pytest.mark.parametrize(
    ("data", "line", "limit", "actual"),
    [
        (b"a,b\n1,2\n3\n", 3, "2 cells, as the header has", "1"),
        (b"a,b\n1,2,3\n", 2, "2 cells, as the header has", "3"),
        (b"a,b,a\n", 1, "every column once", "'a' twice"),
        (b'a,b\n1,"2', 2, "quoted cells that end", "unexpected end of data"),
        (b'a,b\n1,"2"3\n', 2, "quoted cells that end", "','"),
        (b"a,b\n1,\xff\n", 2, "UTF-8", "0xff"),
        (b"a,b\n1," + b"x" * 200, 2, "at most 100 bytes", "more"),
        (b'a,b\n1,"' + b"x\n" * 200 + b'"', 2, "quoted cells", "field larger than field limit"),
        (b",".join(b"%d" % number for number in range(30)) + b",0", 1, "every column once", "'0' twice"),
    ],
)
def test_bad_csv_is_named(read: Read, data: bytes, line: int, limit: str, actual: str) -> None:
    error = refused(read, data, CSV, max_row_bytes=100)
    assert error.place == f"line {line}"
    assert limit in error.limit
    assert actual in error.actual


def test_too_many_columns_of_csv(read: Read) -> None:
    error = refused(read, b",".join(b"%d" % number for number in range(1001)), CSV)
    assert (error.limit, error.actual) == ("at most 1000 columns", "1001")


def test_rows_of_parquet_come_in_batches_and_with_the_columns_that_are_asked_for(read: Read) -> None:
    turns = [[{"role": "user", "content": "x"}]] * 3000
    data = parquet({"messages": turns, "id": list(range(3000))}, row_group_size=1000)
    rows = read(data, PARQUET)
    assert [number for number, _ in rows] == list(range(1, 3001))
    assert rows[-1][1] == {"messages": turns[0], "id": 2999}
    assert read(data, PARQUET, columns={"messages", "tools"})[0][1] == {"messages": turns[0]}


@pytest.mark.parametrize("cut", [4, 100, -1, -20])
def test_a_parquet_file_that_is_broken_off(read: Read, cut: int) -> None:
    error = refused(read, parquet({"text": ["a"] * 100})[:cut], PARQUET)
    assert error.limit == "a Parquet file that is whole"


def test_a_parquet_file_whose_pages_are_damaged(read: Read) -> None:
    data = bytearray(parquet({"text": [f"text {number}" for number in range(5000)]}))
    data[4:60] = bytes(56)
    assert refused(read, bytes(data), PARQUET).place == "row 1"


def test_parquet_text_that_is_none_is_named_by_row_and_column(read: Read) -> None:
    texts = pa.array([b"a", b"b", b"\xff"]).cast(pa.string(), safe=False)
    error = refused(read, parquet({"id": [1, 2, 3], "text": texts}), PARQUET)
    assert (error.item, error.actual) == ("row 3, column text", "the byte 0xff")


def test_the_facts_of_a_parquet_file_are_known_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(parquet({"text": ["x" * 1000] * 5000}, use_dictionary=False))
    rows, unpacked_bytes = parquet_facts(path)
    assert rows == 5000
    assert unpacked_bytes > 5_000_000 > path.stat().st_size


def test_columns_are_known_before_rows(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for format, data in ((JSONL, b'\n{"a": 1, "b": 2}\n{"c": 3}'), (CSV, b"a,b\n1,2\n")):
        path.write_bytes(data)
        assert columns_of(path, format) == ["a", "b"]
    path.write_bytes(parquet({"a": [1], "b": [2]}))
    assert columns_of(path, PARQUET) == ["a", "b"]
    path.write_bytes(parquet({str(number): [1] for number in range(1001)}))
    with pytest.raises(BadRow, match="at most 1000 columns"):
        columns_of(path, PARQUET)


@pytest.mark.parametrize(("format", "data"), [(JSONL, b""), (JSONL, b"\n\n"), (CSV, b""), (CSV, b"a,b\n")])
def test_a_file_without_rows_has_no_columns(tmp_path: Path, format: DatasetFormat, data: bytes) -> None:
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(BadRow, match="the file: at least one row, but found none"):
        columns_of(tmp_path / "data", format)
