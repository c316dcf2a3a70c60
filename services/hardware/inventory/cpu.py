"""Processors: model, cores that may be used, instruction sets, and how busy they are."""

import os
import platform
import time
from dataclasses import dataclass

from services.hardware.inventory.cgroups import cpu_quota, cpu_used_s
from services.hardware.inventory.roots import Roots, read_text
from services.hardware.resources import Cpu

# Flag of /proc/cpuinfo (x86, then Arm) to the name that this platform uses. Only sets that decide what runs,
# or how fast a training step does.
_INSTRUCTION_SETS = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "avx_vnni": "avx_vnni",
    "amx_tile": "amx_tile",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "sve": "sve",
    "bf16": "arm_bf16",
    "i8mm": "arm_i8mm",
}


@dataclass(frozen=True)
class CpuTimes:
    """Processor time used so far, in seconds, and when that was read (monotonic)."""

    used_s: float
    read_s: float


def read_cpu(roots: Roots, since: CpuTimes | None = None, now: CpuTimes | None = None) -> Cpu:
    """Return the processors; utilization is that between `since` and `now`, 0 where one is missing."""
    blocks = _cpuinfo(roots)
    first = blocks[0] if blocks else {}
    usable_cores = _usable_cores(roots)
    # Threads of one core share its id; Arm names no cores, and each processor is one.
    cores = {(block["physical id"], block["core id"]) for block in blocks if "core id" in block}
    return Cpu(
        model=first.get("model name", "") or platform.processor(),
        physical_cores=len(cores) or len(blocks),
        logical_cores=len(blocks),
        usable_cores=usable_cores,
        instruction_sets=_instruction_sets(first),
        utilization=_utilization(since, now, usable_cores),
    )


def read_times(roots: Roots) -> CpuTimes:
    """Return the time used so far: the group's where a quota bounds it, else that of all processors."""
    # Under a quota the other containers' load says nothing about what is left of it.
    used_s = cpu_used_s(roots) if cpu_quota(roots) is not None else None
    return CpuTimes(_machine_used_s(roots) if used_s is None else used_s, time.monotonic())


def _usable_cores(roots: Roots) -> float:
    allowed = float(len(os.sched_getaffinity(0)))
    quota = cpu_quota(roots)
    return allowed if quota is None else min(allowed, quota)


def _instruction_sets(block: dict[str, str]) -> tuple[str, ...]:
    flags = set((block.get("flags") or block.get("Features") or "").split())
    return tuple(name for flag, name in _INSTRUCTION_SETS.items() if flag in flags)


def _utilization(since: CpuTimes | None, now: CpuTimes | None, usable_cores: float) -> float:
    if since is None or now is None or now.read_s <= since.read_s:
        return 0.0
    busy_cores = (now.used_s - since.used_s) / (now.read_s - since.read_s)
    return min(1.0, max(0.0, busy_cores / usable_cores))


def _machine_used_s(roots: Roots) -> float:
    lines = (read_text(roots.proc / "stat") or "").splitlines()
    ticks = [int(word) for word in lines[0].split()[1:]] if lines else []
    # The fields are user, nice, system, idle, iowait and more; guest time is in user already.
    busy = sum(ticks[:3]) + sum(ticks[5:8])
    return float(busy / os.sysconf("SC_CLK_TCK"))


def _cpuinfo(roots: Roots) -> list[dict[str, str]]:
    text = read_text(roots.proc / "cpuinfo") or ""
    blocks = [dict(_pairs(block)) for block in text.split("\n\n")]
    return [{"physical id": "0", **block} for block in blocks if "processor" in block]


def _pairs(block: str) -> list[tuple[str, str]]:
    parted = (line.partition(":") for line in block.splitlines())
    return [(key.strip(), value.strip()) for key, separator, value in parted if separator]
