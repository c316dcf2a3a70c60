"""Progress of a transfer, on standard error: a bar for people, a line now and then for logs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from weighbridge.cli import output, words

Report = Callable[[int, int], None]
# Of the whole, between two lines.
_STEP = 0.25


@contextmanager
def transfer(text: str, *, quiet: bool) -> Iterator[Report]:
    """Yield what is told bytes done and bytes in all."""
    console = output.console(stderr=True)
    if quiet:
        yield _ignore
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(text, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(text).report


@contextmanager
def resumable() -> Iterator[None]:
    """Say that nothing is lost where Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        output.note("stopped: the same command goes on from here")
        raise


def _ignore(done: int, total: int) -> None:
    pass


class _Lines:
    """Prints a line at every quarter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = 0.0

    def report(self, done: int, total: int) -> None:
        """Print how far the transfer is, if it came a quarter further."""
        share = done / total if total else 1.0
        if share >= self._next:
            self._next = (share // _STEP + 1) * _STEP
            output.note(f"{self._text}: {share:.0%} of {words.size(total)}")
