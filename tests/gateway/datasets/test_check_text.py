"""Rows of text are counted and measured; every bad file is refused by line and column, in little memory."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateway.datasets.check_text import check
from gateway.datasets.checking import Checker
from gateway.datasets.limits import Broken, Limits
from gateway.settings import GatewaySettings
from services.common.errors import InvalidDataset
from services.common.specs import DatasetFormat, RowShape, TextStatistics

JSONL, CSV, PARQUET = DatasetFormat.JSONL, DatasetFormat.CSV, DatasetFormat.PARQUET
LIMITS = Limits(
    max_items=100,
    max_rows=5_000,
    max_unpacked_bytes=10_000_000,
    max_item_bytes=1_000_000,
    max_ratio=200,
    max_pixels=10_000,
    memory_bytes=1 << 30,
    timeout_s=60,
)
ASK = {"role": "user", "content": "ask"}
YES = {"role": "assistant", "content": "yes"}
PAIR = {"prompt": "ask", "completion": "yes"}
Found = Callable[..., dict[str, Any]]


def lines(*rows: Any) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Return what checks a file's bytes, or rows that are written as JSON lines."""

    def check_rows(*rows: Any, data: bytes = b"", format: DatasetFormat = JSONL) -> dict[str, Any]:
        path = tmp_path / "data"
        path.write_bytes(data or lines(*rows))
        return check(path, LIMITS, format)

    return check_rows


def broken(found: Found, *rows: Any, **more: Any) -> Broken:
    with pytest.raises(Broken) as caught:
        found(*rows, **more)
    return caught.value


def test_rows_are_counted_and_measured(found: Found) -> None:
    texts = [{"text": "x" * length} for length in (5, 1, 3, 100, 2)]
    assert found(*texts) == {
        "example_count": 5,
        "unpacked_bytes": 111,
        "row_shape": "text",
        "text": {
            "min_characters": 1,
            "median_characters": 3,
            "p95_characters": 100,
            "max_characters": 100,
            "duplicate_count": 0,
            "conversational": False,
            "text_column": "text",
        },
        "warnings": [],
    }


def test_95_of_100_rows_are_no_longer_than_the_95th(found: Found) -> None:
    text = found(*({"text": "x" * length} for length in range(1, 101)))["text"]
    assert (text["median_characters"], text["p95_characters"], text["max_characters"]) == (50, 95, 100)


def test_letters_are_counted_where_bytes_are_more(found: Found) -> None:
    result = found({"text": "äöü"})
    assert (result["text"]["max_characters"], result["unpacked_bytes"]) == (3, 6)


def test_all_that_a_model_reads_of_a_conversation_is_measured(found: Found) -> None:
    call = {"function": {"name": "add", "arguments": {}}}
    plain, calling = found({"messages": [ASK, YES]}), {**YES, "tool_calls": [call]}
    assert plain["text"]["max_characters"] == 6
    assert plain["text"]["conversational"]
    assert found({"messages": [ASK, calling]})["text"]["max_characters"] > 40


def test_the_same_file_in_every_format_says_the_same(found: Found) -> None:
    rows = [{"prompt": f"ask {number}", "completion": "yes"} for number in range(3)]
    target = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), target)
    text = "prompt,completion\r\n" + "".join(f"{row['prompt']},{row['completion']}\r\n" for row in rows)
    results = [
        found(*rows),
        found(data=text.encode(), format=CSV),
        found(data=target.getvalue().to_pybytes(), format=PARQUET),
    ]
    assert results[0] == results[1] == results[2]
    assert results[0]["row_shape"] == RowShape.PROMPT_COMPLETION


def test_rows_that_repeat_are_counted_and_named(found: Found) -> None:
    result = found({"text": "a"}, {"text": "b"}, {"text": "a"}, {"text": "a", "id": 1})
    assert result["text"]["duplicate_count"] == 2
    assert result["warnings"] == ["50 % of the rows repeat an earlier one word for word: 2 (line 3, line 4)"]


@pytest.mark.parametrize(
    ("row", "shape", "warning"),
    [
        ({"instruction": "a", "output": "b"}, RowShape.PROMPT_COMPLETION, "spelled as Alpaca's"),
        ({"conversations": [ASK, YES]}, RowShape.MESSAGES, "spelled as ShareGPT's"),
        ({"chosen": "it is so", "rejected": "it is not"}, RowShape.PREFERENCE, "1 of 1 rows have no prompt"),
        ({"text": "a", "id": 1, "url": 2}, RowShape.TEXT, "columns that nothing is read from: id, url"),
        ({"body": "a", "stars": 5}, RowShape.TEXT, "the column body is taken for plain text"),
        ({"messages": [ASK, YES, ASK]}, RowShape.MESSAGES, "end before the assistant answers: 1"),
    ],
)
def test_what_was_made_of_a_file_is_said(
    found: Found, row: dict[str, Any], shape: RowShape, warning: str
) -> None:
    result = found(row)
    assert result["row_shape"] == shape
    assert warning in "\n".join(result["warnings"])


def test_answers_that_teach_nothing_are_said(found: Found) -> None:
    pairs = [{"prompt": "q", "chosen": "a", "rejected": rejected} for rejected in ("b", "a", "c")]
    (warning,) = found(*pairs)["warnings"]
    assert warning == "chosen and rejected are the same, which teaches nothing: 1 (line 2)"
    assert broken(found, pairs[1]).actual == "chosen and rejected alike"


def test_a_row_far_longer_than_the_others_is_named(found: Found) -> None:
    rows = [{"text": f"row {number}"} for number in range(9)]
    (warning,) = found(*rows, {"text": "x" * 30_000})["warnings"]
    assert warning == "line 10 has 30000 characters, 6000 times as many as the row in the middle"


@pytest.mark.parametrize(
    ("rows", "item", "actual"),
    [
        ([{"text": "a"}, {"text": None}], "line 2, column text", "nothing (null)"),
        ([PAIR, {"messages": []}], "line 2, column prompt", "a row with messages"),
        ([{"messages": [ASK]}], "line 1, column messages", "turns of user only"),
        ([PAIR, {"prompt": [ASK], "completion": [YES]}], "line 2, column prompt", "a conversation"),
        ([{"a": "x", "b": "y"}], "the file", "a, b"),
        ([{"a": 1}], "the file", "a"),
    ],
)
def test_bad_rows_are_named(found: Found, rows: list[Any], item: str, actual: str) -> None:
    error = broken(found, *rows)
    assert error.item.startswith(item)
    assert actual in error.actual


def test_of_many_bad_rows_the_first_is_explained_and_others_are_named(found: Found) -> None:
    error = broken(found, {"text": "a"}, {"text": ""}, {"text": "b"}, {"text": 5}, {"text": None})
    assert (error.item, error.actual) == (
        "line 2, column text",
        "an empty text; faults also in line 4, line 5",
    )
    many = broken(found, {"text": "a"}, *({"text": ""} for _ in range(100)))
    assert many.actual.endswith("line 11 and more")


def test_a_bad_row_before_the_file_breaks_off_comes_first(found: Found) -> None:
    error = broken(found, data=b'{"text": "a"}\n{"text": 1}\n{"text": "b')
    assert error.item == "line 2, column text"
    assert error.actual.endswith("faults also in line 3")


@pytest.mark.parametrize(
    ("row", "count", "item", "limit"),
    [
        ({"text": "x" * 1_000_000}, 1, "line 1", "at most 1000000 bytes in a line"),
        ({"text": "x" * 500_000}, 21, "the file", "at most 10000000 bytes of text"),
        ({"text": "x"}, 5_001, "the file", "at most 5000 rows"),
    ],
)
def test_more_than_allowed(found: Found, row: dict[str, str], count: int, item: str, limit: str) -> None:
    error = broken(found, *([row] * count))
    assert (error.item, error.limit) == (item, limit)


def written(table: pa.Table, **more: Any) -> bytes:
    target = pa.BufferOutputStream()
    pq.write_table(table, target, **more)
    data: bytes = target.getvalue().to_pybytes()
    return data


def test_a_parquet_file_of_more_rows_than_allowed_is_not_unpacked(found: Found) -> None:
    data = written(pa.table({"text": pa.nulls(50_000_000, pa.string())}))
    assert len(data) < 100_000
    error = broken(found, data=data, format=PARQUET)
    assert (error.limit, error.actual) == ("at most 5000 rows", "50000000")


def test_a_parquet_file_that_declares_more_bytes_than_allowed_is_not_unpacked(found: Found) -> None:
    texts = ["x" * 1_000_000] * 11
    data = written(pa.table({"text": texts}), compression="zstd", use_dictionary=False)
    assert len(data) < 100_000
    assert broken(found, data=data, format=PARQUET).limit == "at most 10000000 bytes unpacked"


def test_a_parquet_row_larger_than_allowed(found: Found) -> None:
    error = broken(found, data=written(pa.table({"text": ["x", "x" * 1_000_001]})), format=PARQUET)
    assert (error.item, error.actual) == ("row 2", "1000001")


async def checked(path: Path, data: bytes, **settings: Any) -> InvalidDataset:
    await asyncio.to_thread(path.write_bytes, data)
    with pytest.raises(InvalidDataset) as caught:
        await Checker(GatewaySettings(**settings)).check(path, path.name, None)
    return caught.value


async def test_a_parquet_bomb_meets_the_memory_of_its_check(tmp_path: Path) -> None:
    """One text of some megabytes stands in thousands of rows: it declares little and unpacks to much."""
    texts = pa.array(["x" * 8_000_000]).dictionary_encode().take(pa.array([0] * 2000))
    data = written(pa.table({"text": texts}), compression="zstd")
    assert len(data) < 100_000
    error = await checked(tmp_path / "bomb.parquet", data, check_memory_bytes=700 << 20)
    assert (error.item, error.limit) == ("the file", f"at most {700 << 20} bytes of memory")


async def test_a_line_that_unpacks_to_much_meets_the_memory_of_its_check(tmp_path: Path) -> None:
    data = b'{"text": [' + b"[]," * 8_000_000 + b"[]]}"
    error = await checked(tmp_path / "lists.jsonl", data, check_memory_bytes=400 << 20)
    assert error.limit == f"at most {400 << 20} bytes of memory"


async def test_a_check_that_is_killed_is_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    error = await checked(tmp_path / "data.jsonl", lines({"text": "a"}))
    assert error.limit == "rows that can be decoded safely"
    assert error.actual == "its check was killed by signal 6"


async def test_parquet_is_read_within_little_memory_by_one_thread(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(written(pa.table({"text": [f"text {number}" for number in range(20_000)]})))
    found = await Checker(GatewaySettings(check_memory_bytes=512 << 20)).check(path, "", None)
    assert (found.format, found.example_count) == (PARQUET, 20_000)
    assert found.text == TextStatistics(
        min_characters=6, median_characters=9, p95_characters=10, max_characters=10, text_column="text"
    )


def test_the_process_has_no_credential_and_little_of_anything(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(written(pa.table({"text": ["a"]})))
    probe = (
        "import resource, runpy, sys, atexit;"
        "atexit.register(lambda: print([resource.getrlimit(k)[0] for k in (resource.RLIMIT_AS,"
        " resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)], file=sys.stderr));"
        "runpy.run_module('gateway.datasets.check_text', run_name='__main__')"
    )
    command = [sys.executable, "-c", probe, str(path), json.dumps(vars(LIMITS)), "parquet"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["found"]["example_count"] == 1
    assert ended.stderr.strip().endswith(f"[{1 << 30}, 0, 32]")
