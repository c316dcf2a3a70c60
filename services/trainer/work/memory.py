"""The memory that a run uses, watched, told about, and held to what is reserved.

A run that takes more than it has reserved fails itself, so that its neighbour does not have to. Two nets:
past a limit on the process's data, allocations fail with an error that can be caught; and a thread that adds
up the whole group, loaders included, ends a run that has got past that.
"""

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

from services.common import atomic
from services.trainer.runs.records import DevicePeak

HOST = "host"

_SAMPLE_S = 0.2
_WRITE_S = 1.0
_EXACT_EVERY_S = 10.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch(threading.Thread):
    """Samples the memory of the run's process group, and of the GPUs that it is told of."""

    def __init__(self, usage_file: Path, limit_bytes: int | None, overrun: Callable[[int], None]) -> None:
        """Watch the host's memory; `overrun` is called, in this thread, with what is used past the limit."""
        super().__init__(name="memory-watch", daemon=True)
        self._usage_file = usage_file
        self._limit_bytes = limit_bytes
        self._overrun = overrun
        self._ending = threading.Event()
        self._group = GroupMeter()
        self._gpus: dict[str, Callable[[], int]] = {}
        self._peaks: dict[str, DevicePeak] = {}

    def watch_gpu(self, device: str, reserved_bytes: Callable[[], int]) -> None:
        """Sample a GPU's memory too, by what torch's allocator holds of it."""
        self._gpus[device] = reserved_bytes

    def peaks(self) -> tuple[DevicePeak, ...]:
        """Return what is used and was used at most, for each device."""
        return tuple(self._peaks.values())

    def run(self) -> None:
        """Sample until `stop`."""
        # The service looks now and then; only the peak needs every sample.
        samples_a_write = round(_WRITE_S / _SAMPLE_S)
        sample = 0
        while not self._ending.wait(_SAMPLE_S if sample else 0):
            self.sample()
            used_bytes = self._peaks[HOST].used_bytes
            # A GPU needs no such look: its allocator keeps to the limit by itself.
            if self._limit_bytes is not None and used_bytes > self._limit_bytes:
                self._overrun(used_bytes)
            if sample % samples_a_write == 0:
                atomic.write_json(self._usage_file, [vars(peak) for peak in self.peaks()])
            sample += 1

    def sample(self) -> None:
        """Look at the memory now."""
        self._note(HOST, self._group.measure(self._limit_bytes))
        for device, reserved_bytes in tuple(self._gpus.items()):
            self._note(device, reserved_bytes())

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self.join()

    def _note(self, device: str, used_bytes: int) -> None:
        peak = self._peaks.get(device)
        highest = max(used_bytes, peak.peak_bytes if peak else 0)
        self._peaks[device] = DevicePeak(device=device, used_bytes=used_bytes, peak_bytes=highest)


class GroupMeter:
    """The memory of this process group: each process's own pages, and its share of common ones (PSS).

    The kernel needs 15 ms to add up a process of 600 MiB and 40 for one of 2.6 GiB. In between, what the
    resident pages (RSS) have grown by is added instead: 20 microseconds, and exact while no process comes
    or goes.
    """

    def __init__(self) -> None:
        self._members: list[int] = []
        self._shared_bytes = self._resident_bytes = 0
        self._measured_at_s = 0.0

    def measure(self, limit_bytes: int | None = None) -> int:
        """Return the bytes in use; never only by the quick way that more than `limit_bytes` are."""
        members = group_members()
        if members == self._members and time.monotonic() - self._measured_at_s < _EXACT_EVERY_S:
            used_bytes = self._shared_bytes + sum(map(_resident_bytes, members)) - self._resident_bytes
            if limit_bytes is None or used_bytes <= limit_bytes:
                return used_bytes
        self._members, self._measured_at_s = members, time.monotonic()
        self._shared_bytes = sum(map(_shared_bytes, members))
        self._resident_bytes = sum(map(_resident_bytes, members))
        return self._shared_bytes


def group_members() -> list[int]:
    """Return the ids of the processes of this process's group, itself included."""
    group, members = os.getpgrp(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == group:
                    members.append(int(entry.name))
            except ProcessLookupError:
                continue
    return members


def _shared_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    # A kernel that does not tell: common pages count more than once.
    return _resident_bytes(pid)


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cap_data(extra_bytes: int) -> None:
    """Let this process's data grow by `extra_bytes` from where it is; past that, allocations fail.

    Counted from now because address space that the libraries' imports took, and never touch, counts too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # The soft limit only, so that it can be lifted again to say what happened.
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + extra_bytes, hard))


def lift_cap() -> None:
    """Take the limit away: what is left to do is to say that it was reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def data_bytes() -> int:
    """Return what counts against the limit: the kernel's VmData."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
