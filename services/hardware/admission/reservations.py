"""The reservations of a node as a book that events are written into.

Whatever changes the book is an event, and the journal holds the same events: reading the journal again gives
the same book. Times are not part of it, except for people: how long a held reservation has left is counted by
the monotonic clock of this process, so it starts anew when the service does.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from services.common.names import parse_run, run_name
from services.common.specs import DeviceKind
from services.hardware.resources import DeviceAmount, Reservation, ReservationState


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A reservation as the node remembers it."""

    id: str
    """Drawn anew for each reservation; approvals name it, so that one for an earlier one is no good."""
    run: str
    state: ReservationState
    amounts: tuple[DeviceAmount, ...]
    device: DeviceKind
    spec_sha256: str
    create_time: datetime
    shared: bool = False


@dataclass(frozen=True)
class Held:
    """Memory was promised to a run, or a live attempt was learned from the gateway (then it is active)."""

    entry: Entry


@dataclass(frozen=True)
class Activated:
    """The trainer claimed a held reservation with the approval of that id."""

    run: str
    approval_id: str


@dataclass(frozen=True)
class Expired:
    """Nobody claimed it in time: its memory may be promised again."""

    run: str


@dataclass(frozen=True)
class Released:
    """The run is over; no attempt of its job up to this one gets memory again."""

    run: str


Event = Held | Activated | Expired | Released


class Book:
    """All reservations of a node, and per job the highest attempt that was released."""

    def __init__(self, events: Sequence[Event] = (), held_ttl_s: float = 120.0) -> None:
        self._ttl_s = held_ttl_s
        self._entries: dict[str, Entry] = {}
        self._deadlines: dict[str, float] = {}
        self._used: dict[str, dict[str, int]] = {}
        self._released: dict[str, int] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Write one event in."""
        match event:
            case Held(entry):
                self._entries[entry.run] = entry
                self.renew(entry.run)
            case Activated(run):
                self._entries[run] = replace(self._entries[run], state=ReservationState.ACTIVE)
            case Expired(run):
                self._entries[run] = replace(self._entries[run], state=ReservationState.EXPIRED)
            case Released(run):
                self._release(run)

    def _release(self, run: str) -> None:
        job, attempt = parse_run(run)
        self._released[job] = max(attempt, self._released.get(job, 0))
        # An earlier attempt that was never claimed cannot be claimed any more. One that is active has a
        # process.
        for entry in [e for e in self._entries.values() if _is_dead(e, run, job, attempt)]:
            del self._entries[entry.run]
            self._used.pop(entry.run, None)

    def renew(self, run: str) -> None:
        """Start a held reservation's time anew."""
        # A second more than the approval has: an approval in time never meets a reservation out of time.
        self._deadlines[run] = time.monotonic() + self._ttl_s + 1.0

    def get(self, run: str) -> Entry | None:
        """Return a run's reservation in any state but released."""
        return self._entries.get(run)

    def highest_released(self, run: str) -> int | None:
        """Return the job's highest released attempt where it is this run's or a later one, else None."""
        job, attempt = parse_run(run)
        highest = self._released.get(job, 0)
        return highest if highest >= attempt else None

    def lapsed(self) -> list[Expired]:
        """Return the events that are due: held reservations whose time is up."""
        return [Expired(e.run) for e in self._entries.values() if self._is_lapsed(e)]

    def report_usage(self, run: str, used: Mapping[str, int]) -> None:
        """Remember what a run uses now, by device. A report replaces the one before."""
        self._used[run] = dict(used)

    def holding(self) -> list[Reservation]:
        """Return the reservations that hold memory now, by run, with what each uses."""
        live = (ReservationState.HELD, ReservationState.ACTIVE)
        entries = [e for e in self._entries.values() if e.state in live and not self._is_lapsed(e)]
        return [self.reservation(entry) for entry in sorted(entries, key=lambda entry: entry.run)]

    def reservation(self, entry: Entry) -> Reservation:
        """Return an entry as others see it."""
        used = self._used.get(entry.run, {})
        amounts = tuple(replace(a, used_bytes=used.get(a.device, 0)) for a in entry.amounts)
        return Reservation(
            run=entry.run,
            state=entry.state,
            amounts=amounts,
            spec_sha256=entry.spec_sha256,
            create_time=entry.create_time,
            expire_time=self._expire_time(entry),
            shared=entry.shared,
        )

    def events(self) -> Iterator[Event]:
        """Yield events that make an equal book, in fewer lines than those that made this one."""
        for job, attempt in self._released.items():
            yield Released(run_name(job, attempt))
        for entry in self._entries.values():
            yield Held(entry)

    def _is_lapsed(self, entry: Entry) -> bool:
        return entry.state is ReservationState.HELD and time.monotonic() >= self._deadlines[entry.run]

    def _expire_time(self, entry: Entry) -> datetime | None:
        if entry.state is not ReservationState.HELD:
            return None
        return datetime.now(UTC) + timedelta(seconds=self._deadlines[entry.run] - time.monotonic())


def _is_dead(entry: Entry, run: str, job: str, attempt: int) -> bool:
    if entry.run == run:
        return True
    other_job, other_attempt = parse_run(entry.run)
    return other_job == job and other_attempt <= attempt and entry.state is not ReservationState.ACTIVE
