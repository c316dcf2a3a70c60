"""What a run is, computed from its record and its journal: the state is never written anywhere else."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from services.common.pages import encode_token
from services.common.specs import Checkpoint
from services.trainer.runs.directory import RunRecord
from services.trainer.runs.journal import Entry
from services.trainer.runs.records import (
    FINAL,
    Evaluation,
    Preparation,
    Progress,
    Run,
    RunEvent,
    RunState,
    StateChange,
)


def fold(record: RunRecord, entries: Iterable[Entry]) -> Run:
    """Return the run that the entries, all of them in order, lead to."""
    run = Run(
        name=record.run,
        state=RunState.ACCEPTED,
        spec_sha256=record.spec_sha256,
        start_from=record.start_from,
        create_time=record.create_time,
    )
    for entry in entries:
        run = advance(run, entry)
    return run


def advance(run: Run, entry: Entry) -> Run:
    """Return the run after one more entry."""
    run = replace(run, cursor=cursor_of(run.name, entry.seq))
    match entry.event:
        case StateChange() as change:
            return _changed(run, change, entry.time_s)
        case Progress() as progress:
            return replace(run, progress=progress, phase=None)
        case Evaluation() as evaluation:
            return replace(run, metrics=evaluation.metrics)
        case Checkpoint() as checkpoint:
            return replace(run, checkpoints=(*run.checkpoints, checkpoint))
        case Preparation() as preparation:
            return replace(run, phase=preparation.phase)
        case _:
            return run


def _changed(run: Run, change: StateChange, time_s: float) -> Run:
    run = replace(run, state=change.state)
    # What it does before it trains is told from here on, and is over with the next state.
    if change.state is RunState.STARTING:
        return run
    run = replace(run, phase=None)
    if change.state not in FINAL:
        return run
    return replace(
        run,
        failure=change.failure,
        artifact=change.artifact,
        peaks=change.peaks,
        end_time=datetime.fromtimestamp(time_s, UTC),
    )


def public_event(run: str, entry: Entry) -> RunEvent:
    """Return an entry as a watcher sees it."""
    moment = datetime.fromtimestamp(entry.time_s, UTC)
    return RunEvent(cursor=cursor_of(run, entry.seq), time=moment, run=run, event=entry.event)


def cursor_of(run: str, seq: int) -> str:
    """Return the cursor from which a watch goes on after entry `seq`."""
    return encode_token({"seq": seq}, run)
