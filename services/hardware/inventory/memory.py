"""Host memory and the disk, as far as this container may use them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from services.hardware.inventory.cgroups import memory_limits
from services.hardware.inventory.roots import Roots, read_table


@dataclass(frozen=True)
class Space:
    """How much there is and how much of it nothing uses now, in bytes."""

    total_bytes: int
    free_bytes: int

    @property
    def used_bytes(self) -> int:
        """What is used."""
        return self.total_bytes - self.free_bytes


def read_host_memory(roots: Roots) -> Space:
    """Return the host's memory, or the tightest control group's share of it.

    Free is the least of what the kernel says is available and what is left under each limit.
    """
    table = read_table(roots.proc / "meminfo")
    total_bytes = table.get("MemTotal", 0) * 1024
    # MemFree is what lies idle; what can be had is far more.
    free_bytes = table.get("MemAvailable", table.get("MemFree", 0)) * 1024
    for limit in memory_limits(roots):
        total_bytes = min(total_bytes, limit.limit_bytes)
        free_bytes = min(free_bytes, limit.limit_bytes - limit.used_bytes)
    return Space(total_bytes, max(0, min(free_bytes, total_bytes)))


def read_disk(directory: Path) -> Space:
    """Return the space of the file system that `directory` is on; free is what an ordinary user may fill."""
    usage = shutil.disk_usage(directory)
    return Space(usage.total, usage.free)
