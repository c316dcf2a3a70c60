from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hardware.admission.reservations import Activated, Book, Event, Expired, Released
from services.hardware.resources import ReservationState
from tests.hardware.admission.test_journal import held


def runs(book: Book) -> dict[str, ReservationState]:
    return {reservation.run: reservation.state for reservation in book.holding()}


def test_a_held_reservation_has_a_time_and_an_active_one_has_none() -> None:
    book = Book([held("runs/a-1"), held("runs/b-1"), Activated("runs/b-1", "x")])
    first, second = book.holding()
    assert (first.state, first.expire_time is not None) == (ReservationState.HELD, True)
    assert (second.state, second.expire_time) == (ReservationState.ACTIVE, None)


def test_a_held_reservation_lapses_and_an_active_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book([held("runs/a-1"), held("runs/b-1"), Activated("runs/b-1", "x")], held_ttl_s=10)
    later(monkeypatch, 11.5)
    assert runs(book) == {"runs/b-1": ReservationState.ACTIVE}
    assert book.lapsed() == [Expired("runs/a-1")]


def test_renewing_starts_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book([held("runs/a-1")], held_ttl_s=10)
    later(monkeypatch, 8)
    book.renew("runs/a-1")
    later(monkeypatch, 8)
    assert "runs/a-1" in runs(book)


def test_an_expired_reservation_stays_expired_when_the_book_is_read_again() -> None:
    book = Book([held("runs/a-1"), Expired("runs/a-1")])
    assert runs(Book(list(book.events()))) == runs(book) == {}


def test_a_release_frees_and_refuses_that_attempt_and_those_before() -> None:
    book = Book([held("runs/a-2"), Activated("runs/a-2", "x"), Released("runs/a-2")])
    assert runs(book) == {}
    assert [book.highest_released(f"runs/a-{attempt}") for attempt in (1, 2, 3)] == [2, 2, None]
    assert book.highest_released("runs/b-1") is None


def test_a_late_release_of_an_earlier_attempt_does_not_lower_the_mark() -> None:
    book = Book([Released("runs/a-3"), Released("runs/a-1")])
    assert book.highest_released("runs/a-3") == 3


def test_releasing_a_later_attempt_frees_what_was_held_and_not_what_runs() -> None:
    book = Book([held("runs/a-1"), held("runs/a-2"), Activated("runs/a-2", "x"), Released("runs/a-3")])
    assert runs(book) == {"runs/a-2": ReservationState.ACTIVE}


def test_a_released_runs_use_is_forgotten() -> None:
    book = Book([held("runs/a-1"), Activated("runs/a-1", "x")])
    book.report_usage("runs/a-1", {"host": 7})
    assert [amount.used_bytes for amount in book.holding()[0].amounts] == [0, 7]
    book.apply(Released("runs/a-1"))
    assert book.holding() == []


def later(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    from services.hardware.admission import reservations

    now = reservations.time.monotonic
    monkeypatch.setattr(reservations.time, "monotonic", lambda: now() + by_s)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Events in an order that the desk could have written them in."""
    book, events = Book(), []
    for _ in range(draw(st.integers(0, 15))):
        run = f"runs/{draw(st.sampled_from('ab'))}-{draw(st.integers(1, 4))}"
        entry = book.get(run)
        choices: list[Event] = [Released(run)]
        if book.highest_released(run) is None and (entry is None or entry.state == "expired"):
            choices.append(held(run, draw(st.integers(0, 100))))
        if entry is not None and entry.state == "held":
            choices += [Activated(run, "x"), Expired(run)]
        event = draw(st.sampled_from(choices))
        book.apply(event)
        events.append(event)
    return events


@given(histories())
def test_a_compacted_journal_makes_the_same_book(events: list[Event]) -> None:
    book = Book(events)
    again = Book(list(book.events()))
    assert [replace(r, expire_time=None) for r in again.holding()] == [
        replace(r, expire_time=None) for r in book.holding()
    ]
    for job in "ab":
        for attempt in range(1, 6):
            run = f"runs/{job}-{attempt}"
            assert again.highest_released(run) == book.highest_released(run)
            assert again.get(run) == book.get(run)
