"""The journal as a file: what a crash or a full disk can do to it."""

import errno
import os
from pathlib import Path

import pytest

from services.trainer.runs.journal import Entry, Journal, first_line, numbered
from services.trainer.runs.records import Event, Notice, Progress, RunState, StateChange


def new(path: Path) -> Journal:
    file = path / "journal.jsonl"
    file.write_bytes(first_line(1.0, StateChange(state=RunState.ACCEPTED)))
    return Journal(file)


def entries(open_journal: Journal, *events: Event) -> list[Entry]:
    return list(numbered(open_journal.last, 2.0, [(event, 7) for event in events]))


def steps(count: int) -> list[Progress]:
    return [Progress(step=step) for step in range(count)]


def test_what_was_appended_is_read_from_any_number_on(tmp_path: Path) -> None:
    opened = new(tmp_path)
    added = entries(opened, *steps(5))
    opened.append(added[:2])
    opened.append(added[2:])
    assert opened.read(after=1)[0] == added
    assert opened.read(after=4)[0] == added[3:]
    assert opened.read(after=6)[0] == []
    first, position = opened.read(after=0, limit=3)
    assert [entry.seq for entry in first] == [1, 2, 3]
    assert opened.read(3, 2, position)[0] == added[2:4]


def test_a_reopened_journal_knows_its_last_entry_however_long(tmp_path: Path) -> None:
    opened = new(tmp_path)
    opened.append(entries(opened, Notice(message="x" * 300_000)))
    opened.append(entries(opened, Notice(message="y")))
    assert Journal(tmp_path / "journal.jsonl").last == opened.last
    assert opened.last.seq == 3


@pytest.mark.parametrize(
    "torn", [b"{", b'{"seq": 3, "time": 1, "worker_offset": 9, "notice": {"message": "x"}}']
)
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    opened = new(tmp_path)
    opened.append(entries(opened, Progress(step=1)))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(torn)
    again = Journal(tmp_path / "journal.jsonl")
    again.append(entries(again, Progress(step=2)))
    assert [entry.seq for entry in Journal(tmp_path / "journal.jsonl").read()[0]] == [1, 2, 3]


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = new(tmp_path)
    written = os.write

    def run_full(handle: int, data: bytes) -> int:
        if len(data) > 20:
            return written(handle, data[:20])
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "write", run_full)
    with pytest.raises(OSError, match="no space"):
        opened.append(entries(opened, *steps(3)))
    monkeypatch.undo()
    opened.append(entries(opened, *steps(2)))
    assert [entry.seq for entry in Journal(tmp_path / "journal.jsonl").read()[0]] == [1, 2, 3]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"[]\n", b'{"seq": 1, "notice": {"message": "x"}}\n']
)
def test_a_file_that_is_no_journal_is_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011
        Journal(tmp_path / "journal.jsonl")


def test_numbers_that_are_none_survive(tmp_path: Path) -> None:
    opened = new(tmp_path)
    opened.append(entries(opened, Progress(step=1, loss=float("nan"), grad_norm=float("inf"))))
    (entry,) = Journal(tmp_path / "journal.jsonl").read(after=1)[0]
    assert isinstance(entry.event, Progress)
    assert entry.event.loss != entry.event.loss
    assert entry.event.grad_norm == float("inf")
