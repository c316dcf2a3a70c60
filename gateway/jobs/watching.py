"""A job's events, followed from a cursor to its final state."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime

from gateway.jobs.job import Event, Job, LiveProgress, now
from gateway.jobs.jobs import JobView, find
from gateway.jobs.states import FINAL
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.events import events_after, job_topic, parse_state_body
from gateway.packed import Packed
from gateway.signals import Listener
from services.common.names import parse_job
from services.common.pages import decode_token, encode_token

_BATCH = 200
# The ledger's progress lags behind what is published: it counts only once nothing was for so long.
_LIVE_S = 10.0


@dataclass(frozen=True)
class News:
    """One event for a watcher: exactly one of `view`, `event` and `progress`."""

    cursor: str
    time: datetime
    attempt: int
    view: JobView | None = None
    event: Event | None = None
    progress: Packed | None = None


class Watch:
    """One watcher of one job."""

    def __init__(self, ledger: Ledger, name: str, cursor: str, tick_s: float) -> None:
        self._ledger = ledger
        self._name = name
        self._tick_s = tick_s
        _, self._id = parse_job(name)
        self._scope = f"watch {self._id}"
        self._seq = decode_token(cursor, {"seq": int}, self._scope)["seq"] if cursor else 0
        self._told: tuple[object, ...] = ()
        self._progress: Packed | None = None
        self._live_until = 0.0

    async def news(self) -> AsyncIterator[News]:
        """Yield the job as it is, then what happened since the cursor, then what happens. Raises NotFound."""
        with self._ledger.signals.listen(job_topic(self._id)) as listener:
            view, events = await self._ledger.read(self._read)
            self._progress = view.job.progress
            yield self._as_is(view)
            while True:
                for event in events:
                    # Progress that was made before this happened is told before it.
                    for live in _taken(listener, event.seq - 1):
                        yield self._live(view.job, live)
                    self._seq = event.seq
                    yield self._happened(event, view)
                if not events:
                    for live in _taken(listener, self._seq):
                        yield self._live(view.job, live)
                    if self._told != _telling(view.job):
                        yield self._as_is(view)
                    if self._is_behind(view.job):
                        self._progress = view.job.progress
                        yield replace(self._news(view.job), progress=self._progress)
                    # Only now: every event up to the last one has been told.
                    if view.job.state in FINAL:
                        return
                    await listener.wait(self._tick_s)
                view, events = await self._ledger.read(self._read)

    async def _read(self, tx: Transaction) -> tuple[JobView, list[Event]]:
        return await find(tx, self._name), await events_after(tx, self._id, self._seq, _BATCH)

    def _is_behind(self, job: Job) -> bool:
        """Say whether another replica wrote progress down that was not published in this one."""
        return job.progress not in (None, self._progress) and time.monotonic() > self._live_until

    def _live(self, job: Job, live: LiveProgress) -> News:
        self._progress = live.message
        self._live_until = time.monotonic() + _LIVE_S
        return replace(self._news(job), progress=live.message)

    def _as_is(self, view: JobView) -> News:
        self._told = _telling(view.job)
        return replace(self._news(view.job), view=view)

    def _happened(self, event: Event, view: JobView) -> News:
        news = News(self._cursor(event.seq), event.time, event.attempt)
        if event.kind != "job":
            return replace(news, event=event)
        then = replace(view.job, **parse_state_body(event.body))
        self._told = _telling(then)
        return replace(news, view=JobView(then, view.attempts))

    def _news(self, job: Job) -> News:
        return News(self._cursor(self._seq), now(), job.attempt)

    def _cursor(self, seq: int) -> str:
        return encode_token({"seq": seq}, self._scope)


def _taken(listener: Listener[LiveProgress], seq: int) -> list[LiveProgress]:
    """Take what follows the events up to `seq` off the listener."""
    taken = []
    while listener.items and listener.items[0].after_seq <= seq:
        taken.append(listener.items.popleft())
    return taken


def _telling(job: Job) -> tuple[object, ...]:
    """Return what a watcher is told of when it changes, beside events."""
    return job.state, job.conditions
