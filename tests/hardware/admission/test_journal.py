import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.specs import DeviceKind
from services.hardware.admission.journal import Journal
from services.hardware.admission.records import from_line, to_line
from services.hardware.admission.reservations import Activated, Entry, Event, Expired, Held, Released
from services.hardware.resources import DeviceAmount, ReservationState
from tests.hardware.samples import SHA

FILE = "reservations.jsonl"


def held(run: str, size: int = 5) -> Held:
    return Held(
        Entry(
            id=f"id of {run}",
            run=run,
            state=ReservationState.HELD,
            amounts=(DeviceAmount(device="GPU-0", reserved_bytes=size), DeviceAmount(device="host")),
            device=DeviceKind.CUDA,
            spec_sha256=SHA,
            create_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            shared=True,
        )
    )


EVENTS: list[Event] = [
    held("runs/a-1"),
    Activated("runs/a-1", "x"),
    Expired("runs/b-2"),
    Released("runs/a-1"),
]


class Opened:
    """Opens the journal of a directory again and again, as restarted services would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / FILE
        self._journal: Journal | None = None

    def again(self) -> tuple[Journal, list[Event]]:
        self.close()
        self._journal = Journal(self.directory)
        return self._journal, self._journal.load()

    def events(self) -> list[Event]:
        return self.again()[1]

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    journals = Opened(tmp_path)
    yield journals
    journals.close()


@pytest.fixture
def journal(opened: Opened) -> Journal:
    journal, events = opened.again()
    assert (journal.exists, events) == (False, [])
    journal.replace([])
    return journal


def test_events_come_back_in_order(journal: Journal, opened: Opened) -> None:
    journal.append(EVENTS[:1])
    journal.append(EVENTS[1:])
    again, events = opened.again()
    assert (again.exists, events, again.lines) == (True, EVENTS, 4)


@pytest.mark.parametrize("torn", [b"{", b'{"event":"released","run":"ru', b"\xff\xfe"])
def test_a_torn_last_line_is_cut_off(journal: Journal, opened: Opened, torn: bytes) -> None:
    journal.append(EVENTS[:2])
    with opened.file.open("ab") as file:
        file.write(torn)
    again, events = opened.again()
    assert events == EVENTS[:2]
    again.append(EVENTS[2:])
    assert opened.events() == EVENTS


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"journal":1}\nnonsense\n', b'{"journal":9}\n'])
def test_a_damaged_journal_is_put_aside_as_lost(opened: Opened, content: bytes) -> None:
    opened.file.write_bytes(content)
    journal, events = opened.again()
    assert (journal.exists, events) == (False, [])
    assert [path.read_bytes() for path in opened.directory.glob("*.damaged-*")] == [content]


def test_what_the_disk_refuses_has_not_happened(
    journal: Journal, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(EVENTS[:1])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        journal.append(EVENTS[1:2])
    monkeypatch.undo()
    journal.append(EVENTS[2:])
    assert opened.events() == [EVENTS[0], *EVENTS[2:]]


def test_two_processes_cannot_keep_one_journal(journal: Journal, opened: Opened) -> None:
    with pytest.raises(RuntimeError, match="another hardware service"):
        Journal(opened.directory)


def test_others_cannot_read_it(journal: Journal, opened: Opened) -> None:
    assert opened.file.stat().st_mode & 0o077 == 0


def test_an_event_of_a_newer_version_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="newer version"):
        from_line('{"event":"shrunk","run":"runs/a-1"}')


@given(st.integers(1, 10**9), st.integers(0, 2**62))
def test_every_event_survives_its_line(attempt: int, size: int) -> None:
    run = f"runs/a-{attempt}"
    for event in (held(run, size), Activated(run, "x"), Expired(run), Released(run)):
        assert from_line(to_line(event)) == event
