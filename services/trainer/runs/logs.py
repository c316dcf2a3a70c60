"""What a run's worker printed, line by line."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

# Of one answer. A line that is longer is given in pieces.
_BATCH_BYTES = 1 << 18
_LINE_BYTES = 1 << 14
_FOLLOW_S = 0.5


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line, and the byte offset after it."""

    offset: int
    text: str


def read_lines(path: Path, offset: int, ended: bool) -> list[LogLine]:
    """Return some lines from `offset` on; a last one without an end only once the run has `ended`. Blocks."""
    lines: list[LogLine] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return lines
    with file:
        file.seek(offset)
        begin = offset
        while offset - begin < _BATCH_BYTES and (data := file.readline(_LINE_BYTES)):
            if not data.endswith(b"\n") and len(data) < _LINE_BYTES and not ended:
                break
            offset += len(data)
            lines.append(LogLine(offset=offset, text=data.rstrip(b"\r\n").decode(errors="replace")))
    return lines


async def stream_lines(
    path: Path, offset: int, follow: bool, ended: Callable[[], bool]
) -> AsyncIterator[list[LogLine]]:
    """Yield some lines at a time from `offset` on; with `follow`, until the run has `ended`."""
    while True:
        # Asked before the file is read: what comes between the two is read in the next round.
        over = ended()
        lines = await asyncio.to_thread(read_lines, path, offset, over)
        if lines:
            offset = lines[-1].offset
            yield lines
        elif over or not follow:
            return
        else:
            await asyncio.sleep(_FOLLOW_S)
