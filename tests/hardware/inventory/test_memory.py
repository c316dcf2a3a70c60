from pathlib import Path

import pytest

from services.hardware.inventory.memory import read_disk, read_host_memory
from services.hardware.units import GIB
from tests.hardware.inventory.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_limit_the_kernels_own_figures_count(machine: Machine) -> None:
    memory = read_host_memory(machine.roots)
    assert (memory.total_bytes, memory.free_bytes, memory.used_bytes) == (32 * GIB, 20 * GIB, 12 * GIB)


def test_a_container_has_its_limit_and_not_the_hosts_memory(machine: Machine) -> None:
    stat = f"anon {2 * GIB}\nactive_file {GIB}\ninactive_file {GIB}\nslab_reclaimable 0"
    machine.group("", memory_max=8 * GIB, memory_current=4 * GIB, memory_stat=stat)
    memory = read_host_memory(machine.roots)
    assert memory.total_bytes == 8 * GIB
    # Page cache counts as usage to the control group and goes away when asked.
    assert memory.free_bytes == 6 * GIB


def test_a_container_cannot_have_what_the_host_lacks(machine: Machine) -> None:
    machine.group("", memory_max=30 * GIB, memory_current=0)
    assert read_host_memory(machine.roots).free_bytes == 20 * GIB


def test_the_tightest_limit_on_the_way_up_counts(machine: Machine) -> None:
    machine.proc("self/cgroup", "0::/kubepods/pod1/job\n")
    machine.group("kubepods/pod1/job", memory_max="max", memory_current=GIB)
    machine.group("kubepods/pod1", memory_max=6 * GIB, memory_current=5 * GIB)
    machine.group("kubepods", memory_max=24 * GIB, memory_current=6 * GIB)
    memory = read_host_memory(machine.roots)
    assert (memory.total_bytes, memory.free_bytes) == (6 * GIB, GIB)


def test_version_1_is_read_where_a_machine_still_has_it(machine: Machine) -> None:
    machine.proc("self/cgroup", "4:memory:/docker/abc\n0::/\n")
    (machine.roots.cgroup / "unified").mkdir(parents=True)
    stat = f"total_active_file {GIB}\ntotal_inactive_file 0"
    machine.group(
        "memory/docker/abc", memory_limit_in_bytes=4 * GIB, memory_usage_in_bytes=2 * GIB, memory_stat=stat
    )
    memory = read_host_memory(machine.roots)
    assert (memory.total_bytes, memory.free_bytes) == (4 * GIB, 3 * GIB)


def test_the_mount_is_the_group_where_the_path_is_the_hosts(machine: Machine) -> None:
    machine.proc("self/cgroup", "4:memory:/docker/abc\n")
    machine.group("memory", memory_limit_in_bytes=4 * GIB, memory_usage_in_bytes=GIB)
    assert read_host_memory(machine.roots).free_bytes == 3 * GIB


def test_version_1s_word_for_no_limit_is_none(machine: Machine) -> None:
    machine.proc("self/cgroup", "4:memory:/\n")
    machine.group("memory", memory_limit_in_bytes=9223372036854771712, memory_usage_in_bytes=GIB)
    assert read_host_memory(machine.roots).total_bytes == 32 * GIB


def test_a_group_over_its_limit_leaves_nothing_and_not_less(machine: Machine) -> None:
    machine.group("", memory_max=GIB, memory_current=2 * GIB)
    assert read_host_memory(machine.roots).free_bytes == 0


def test_the_disk_is_the_one_under_the_directory(tmp_path: Path) -> None:
    disk = read_disk(tmp_path)
    assert 0 < disk.free_bytes <= disk.total_bytes
