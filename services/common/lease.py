"""The node's lease: how long its runs may go on without a word from the gateway.

It is counted on CLOCK_BOOTTIME, which nobody sets and which goes on while the machine sleeps, and from the
*sending* of what was acknowledged: the gateway counts from the receipt, and never takes it for shorter.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from services.common import atomic


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What a service finds again after a restart."""

    boot_id: str
    end_s: float | None


_KEPT = TypeAdapter(_Kept)


class Lease:
    """A lease that is written down, so that a service which comes back does not grant itself a longer one."""

    def __init__(self, path: Path) -> None:
        """Go on with the lease in `path`, if this boot of the machine wrote it. Blocks.

        Raises:
            ValueError: the file is damaged.
        """
        self._path = path
        self._boot_id = boot_id()
        self._kept = _read(path)
        # The clock began again, and no run outlived the boot.
        if self._kept.boot_id != self._boot_id:
            self._kept = _Kept(boot_id=self._boot_id, end_s=None)
        self._written = self._kept

    @property
    def end_s(self) -> float | None:
        """When it ends, on CLOCK_BOOTTIME. None: never."""
        return self._kept.end_s

    @property
    def left_s(self) -> float | None:
        """How long it lasts from now on; 0 when it has ended. None: for ever."""
        return None if self.end_s is None else max(0.0, self.end_s - boottime_s())

    @property
    def ended(self) -> bool:
        """Whether runs must not go on, and none may start."""
        return is_past(self.end_s)

    def renew(self, sent_s: float, length_s: float | None) -> None:
        """Let it last `length_s` from `sent_s`, the sending of what was acknowledged. None: for ever.

        It blocks.

        Raises:
            OSError: it cannot be written down. It counts nevertheless, as long as this process lives.
        """
        kept = _Kept(boot_id=self._boot_id, end_s=None if length_s is None else sent_s + length_s)
        self._kept = kept
        # A fleet of one has nothing to write, however often it reports.
        if kept != self._written:
            atomic.write_json(self._path, _KEPT.dump_python(kept, mode="json"))
            self._written = kept


def boottime_s() -> float:
    """Return the seconds since the machine's boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_past(end_s: float | None) -> bool:
    """Say whether a moment of CLOCK_BOOTTIME is over. None never is."""
    return end_s is not None and boottime_s() >= end_s


def boot_id() -> str:
    """Return what changes with every boot of the machine. Empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> _Kept:
    try:
        return _KEPT.validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Kept(boot_id="", end_s=None)
