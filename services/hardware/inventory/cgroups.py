"""The control groups that this process is in, versions 1 and 2.

A limit may be set at any level, so a reader walks from the process's own group up to the root. Inside a
container the group's path is often that of the host while only the container's part is mounted: then the
mount itself is the group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.hardware.inventory.roots import Roots, read_table, read_text

# Version 1 writes the largest page-aligned number for "no limit".
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class MemoryLimit:
    """A limit and what is used under it, in bytes; page cache that can be dropped is not used."""

    limit_bytes: int
    used_bytes: int


def memory_limits(roots: Roots) -> list[MemoryLimit]:
    """Return every memory limit that applies to this process, the innermost first."""
    found = (_memory_v2(group) for group in groups_v2(roots))
    older = (_memory_v1(group) for group in groups_v1(roots, "memory"))
    return [limit for limit in (*found, *older) if limit is not None]


def cpu_quota(roots: Roots) -> float | None:
    """Return how many cores' worth of time this process may use, or None where no quota is set."""
    found = [_quota_v2(group) for group in groups_v2(roots)]
    found += [_quota_v1(group) for group in groups_v1(roots, "cpu")]
    quotas = [quota for quota in found if quota is not None]
    return min(quotas, default=None)


def cpu_used_s(roots: Roots) -> float | None:
    """Return the seconds of processor time that this process's group has used, or None if not counted."""
    for group in groups_v2(roots):
        # The innermost group that counts is this container's; its parents count others too.
        if microseconds := read_table(group / "cpu.stat").get("usage_usec"):
            return microseconds / 1e6
    for group in groups_v1(roots, "cpuacct"):
        if (text := read_text(group / "cpuacct.usage")) and text.isdigit():
            return int(text) / 1e9
    return None


def groups_v2(roots: Roots) -> Iterator[Path]:
    """Yield this process's group of version 2 and its ancestors."""
    for line in _memberships(roots):
        hierarchy, _, path = line
        if hierarchy == "0":
            # Beside version 1, version 2 stands one level lower.
            unified = roots.cgroup / "unified"
            yield from _upwards(unified if unified.is_dir() else roots.cgroup, path)


def groups_v1(roots: Roots, controller: str) -> Iterator[Path]:
    """Yield this process's group under a controller of version 1 and its ancestors."""
    for _, controllers, path in _memberships(roots):
        if controller in controllers.split(","):
            # Some distributions mount `cpu,cpuacct` under that name, with links for each.
            named = (roots.cgroup / name for name in (controller, controllers))
            mount = next((found for found in named if found.is_dir()), None)
            if mount is not None:
                yield from _upwards(mount, path)


def _memberships(roots: Roots) -> list[tuple[str, str, str]]:
    lines = (read_text(roots.proc / "self/cgroup") or "").splitlines()
    parts = (line.split(":", 2) for line in lines)
    return [(part[0], part[1], part[2]) for part in parts if len(part) == 3]


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    group = mount / path.lstrip("/")
    # A path that climbs is one seen from another namespace.
    if ".." in Path(path).parts or not group.is_dir():
        group = mount
    while group != mount:
        yield group
        group = group.parent
    yield mount


def _memory_v2(group: Path) -> MemoryLimit | None:
    return _memory(
        group, "memory.max", "memory.current", ("active_file", "inactive_file", "slab_reclaimable")
    )


def _memory_v1(group: Path) -> MemoryLimit | None:
    cache = ("total_active_file", "total_inactive_file")
    return _memory(group, "memory.limit_in_bytes", "memory.usage_in_bytes", cache)


def _memory(group: Path, limit_file: str, usage_file: str, cache: tuple[str, ...]) -> MemoryLimit | None:
    limit, usage = read_text(group / limit_file), read_text(group / usage_file)
    if limit is None or not limit.isdigit() or int(limit) >= _UNLIMITED:
        return None
    stat = read_table(group / "memory.stat")
    # The file system's cache counts as usage and is given back on demand; shared memory is not among it.
    used_bytes = int(usage or 0) - sum(stat.get(name, 0) for name in cache)
    return MemoryLimit(int(limit), max(0, used_bytes))


def _quota_v2(group: Path) -> float | None:
    words = (read_text(group / "cpu.max") or "max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_v1(group: Path) -> float | None:
    quota, period = read_text(group / "cpu.cfs_quota_us"), read_text(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None
