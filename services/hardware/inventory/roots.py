"""Where the kernel's files are, so that a test can show another machine's."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Roots:
    """The mount points of proc and of the control groups."""

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")


def read_text(path: Path) -> str | None:
    """Return a kernel file's text without surrounding space, or None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_table(path: Path) -> dict[str, int]:
    """Return a file of lines `name value` or `name: value unit` as a dict; other lines are passed over."""
    table = {}
    for line in (read_text(path) or "").splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            table[words[0]] = int(words[1])
    return table
