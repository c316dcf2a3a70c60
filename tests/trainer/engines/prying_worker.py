"""A worker that tries what it must not be able to do, and tells in its log how far it came."""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.trainer.work.memory import GroupMeter, group_members

_CHILD_BYTES = 64 << 20
_STATUS = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")


def main(directory: Path) -> None:
    claim = (directory / "claim").open("w")
    fcntl.flock(claim, fcntl.LOCK_EX)
    claim.write(f"{os.getpid()}\n")
    claim.flush()
    inputs = json.loads((directory / "inputs.json").read_text())
    writable: list[str | Path] = [
        directory,
        "/tmp",
        "/dev/shm",
        "/",
        "/usr",
        "/etc",
        Path(inputs["dataset_path"]),
    ]
    facts: dict[str, Any] = {
        "user": [os.getuid(), os.getgid()],
        "groups": os.getgroups(),
        "status": dict(_status()),
        "writable": [str(path) for path in writable if _can_write(Path(path))],
        "interfaces": [name for _, name in socket.if_nameindex()],
        "others_data": [path.name for path in Path(inputs["dataset_path"]).parent.iterdir()],
        "environment": sorted(os.environ),
        "boottime_s": time.clock_gettime(time.CLOCK_BOOTTIME),
        "first_process": Path("/proc/1/comm").read_text().strip(),
        "memory": _memory(),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


def _status() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in _STATUS:
            yield name, value.strip()


def _can_write(path: Path) -> bool:
    with contextlib.suppress(OSError):
        (path.open("ab") if path.is_file() else (path / "written").open("wb")).close()
        return True
    return False


def _memory() -> dict[str, int]:
    """Return what the group's processes are found to use, before and after a child has taken some."""
    alone_bytes = GroupMeter().measure()
    code = f"x = b'1' * {_CHILD_BYTES}; print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        members, both_bytes = len(group_members()), GroupMeter().measure()
        child.communicate("\n")
    return {"alone_bytes": alone_bytes, "members": members, "both_bytes": both_bytes}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
