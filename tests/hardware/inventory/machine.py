"""Another machine's proc and control groups, written into a directory."""

from pathlib import Path

from services.hardware.inventory.roots import Roots
from services.hardware.units import GIB

CPUINFO = """processor\t: {index}
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu avx avx2 fma avx512f avx512_bf16 amx_bf16
"""


class Machine:
    """A machine with 32 GiB of memory, of which 20 are available, and four cores of two threads each."""

    def __init__(self, directory: Path) -> None:
        self.roots = Roots(directory / "proc", directory / "cgroup")
        self.proc("meminfo", f"MemTotal: {32 * GIB // 1024} kB\nMemAvailable: {20 * GIB // 1024} kB\n")
        self.proc("cpuinfo", "\n".join(CPUINFO.format(index=i, core=i // 2) for i in range(8)))
        self.proc("stat", "cpu  100 0 100 800 0 0 0 0 0 0\n")
        self.proc("sys/kernel/random/boot_id", "8c1c-boot\n")
        self.proc("self/cgroup", "0::/\n")

    def proc(self, path: str, text: str) -> None:
        """Write a file below /proc."""
        _write(self.roots.proc / path, text)

    def group(self, path: str, **files: object) -> None:
        """Write files of a control group; `memory_max=1` is the file memory.max."""
        for name, value in files.items():
            _write(self.roots.cgroup / path / name.replace("_", ".", 1), f"{value}\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
