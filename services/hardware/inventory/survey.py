"""One look at the whole node."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from services.hardware.inventory.cpu import CpuTimes, read_cpu, read_times
from services.hardware.inventory.gpus import GpuReader
from services.hardware.inventory.memory import Space, read_disk, read_host_memory
from services.hardware.inventory.roots import Roots
from services.hardware.inventory.system import read_boot_id, read_system
from services.hardware.resources import Cpu, Gpu, SystemInfo


@dataclass(frozen=True)
class Inventory:
    """What the node has and what of it is free, before any reservation is considered."""

    system: SystemInfo
    boot_id: str
    cpu: Cpu
    host: Space
    disk: Space
    gpus: tuple[Gpu, ...] = ()
    problems: tuple[str, ...] = ()


class Survey:
    """Looks at the node. `disk` is a directory on the disk that run directories are on."""

    def __init__(self, disk: Path, roots: Roots | None = None, nvml: Any = pynvml) -> None:
        self._disk = disk
        self._roots = roots or Roots()
        self._gpus = GpuReader(self._roots, nvml)
        self._times: CpuTimes | None = None
        self._looking = threading.Lock()

    def take(self) -> Inventory:
        """Return the inventory as it is now; utilization is that since the last look. It blocks."""
        with self._looking:
            times, self._times = self._times, read_times(self._roots)
            reading = self._gpus.read()
            return Inventory(
                system=read_system(self._roots),
                boot_id=read_boot_id(self._roots),
                cpu=read_cpu(self._roots, times, self._times),
                host=read_host_memory(self._roots),
                disk=read_disk(self._disk),
                gpus=reading.gpus,
                problems=reading.problems,
            )
