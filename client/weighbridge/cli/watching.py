"""Following a job to its end: a bar and sentences for people, lines for logs, JSON lines for scripts."""

import time
from collections.abc import Callable

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from weighbridge.cli import output, words
from weighbridge.cli.exits import Exit
from weighbridge.cli.narration import Narrator, figures, progress_line
from weighbridge.cli.session import Session
from weighbridge.cli.views_verdict import show_verdict
from weighbridge.client import Client
from weighbridge.exceptions import CallError
from weighbridge.following import State
from weighbridge.gateway.v1.resources_pb2 import JobEvent, TrainingJob
from weighbridge.hardware.v1.resources_pb2 import Decision
from weighbridge.names import short

# Between two lines of progress where there is no bar.
_PROGRESS_S = 5.0
_EXITS = {
    State.STATE_FAILED: Exit.JOB_FAILED,
    State.STATE_CANCELLED: Exit.JOB_CANCELLED,
    State.STATE_REJECTED: Exit.DOES_NOT_FIT,
}


def follow(session: Session, client: Client, job: str, cursor: str = "") -> None:
    """Print a job's events until it is done. Raises typer.Exit with how it ended.

    Ctrl-C ends the watch, not the job.
    """
    watch = _as_json if session.json else _for_people
    # Typer would turn Ctrl-C into "Aborted!", which sounds as if the job had been.
    try:
        last = watch(client, job, cursor)
    except KeyboardInterrupt:
        name = short(job)
        output.note(
            f"\nstopped watching; job {name} goes on. `weighbridge jobs watch {name}` follows it again, "
            f"`weighbridge jobs cancel {name}` stops it."
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    raise typer.Exit(_EXITS.get(last.state, Exit.OK))


def _as_json(client: Client, job: str, cursor: str) -> TrainingJob:
    last = TrainingJob()
    for event in client.jobs.watch(job, cursor, on_wait=_unreachable()):
        last = event.job if event.HasField("job") else last
        output.json_line(event)
    return last


def _for_people(client: Client, job: str, cursor: str) -> TrainingJob:
    narrator = Narrator(resumed=bool(cursor))
    display: _Bar | _Lines = _Bar() if output.console().is_terminal else _Lines()
    with display:
        for event in client.jobs.watch(job, cursor, on_wait=_unreachable()):
            for line in narrator.tell(event):
                display.line(event, line)
            if event.HasField("progress"):
                display.progress(event, narrator.job)
    _epilogue(narrator.job)
    return narrator.job


def _epilogue(job: TrainingJob) -> None:
    if job.state == State.STATE_REJECTED and job.verdict.decision == Decision.DECISION_REJECT:
        output.say("")
        show_verdict(job.verdict, job.estimate)
    if job.artifact.files:
        size = words.size(job.artifact.size_bytes)
        output.say(f"artifact of {size}: `weighbridge jobs download {short(job.name)}`")


def _unreachable() -> Callable[[CallError], None]:
    told: list[str] = []

    def tell(error: CallError) -> None:
        # Once, not at every try.
        if not told:
            output.note(f"the connection is lost, the job goes on; trying again ({error})")
        told.append(str(error))

    return tell


class _Lines:
    """Prints every event in a line, and progress now and then."""

    def __init__(self) -> None:
        self._last_s = float("-inf")

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def line(self, event: JobEvent, text: Text) -> None:
        """Print a sentence."""
        output.say(_stamped(event, text))

    def progress(self, event: JobEvent, job: TrainingJob) -> None:
        """Print how far the run is, unless that was printed a moment ago."""
        # The last one always: it says in how long it was done.
        done = event.progress.step == event.progress.total_steps
        if done or time.monotonic() - self._last_s >= _PROGRESS_S:
            self._last_s = time.monotonic()
            self.line(event, Text(progress_line(event.progress, job)))


class _Bar:
    """Keeps a bar below the sentences."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=output.console(),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def line(self, event: JobEvent, text: Text) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(_stamped(event, text), soft_wrap=True)

    def progress(self, event: JobEvent, job: TrainingJob) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task("")
        text = "  ".join(figures(event.progress, job))
        self._bar.update(
            self._task,
            completed=event.progress.step,
            total=event.progress.total_steps,
            description=text,
        )


def _stamped(event: JobEvent, text: Text) -> Text:
    return Text.assemble((f"{words.clock(event.time) or time.strftime('%H:%M:%S')} ", "dim"), text)
