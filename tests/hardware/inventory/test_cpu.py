import os
from pathlib import Path

import pytest

from services.hardware.inventory.cpu import CpuTimes, read_cpu, read_times
from tests.hardware.inventory.machine import Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5})
    return Machine(tmp_path)


def test_model_cores_and_instruction_sets_are_read(machine: Machine) -> None:
    cpu = read_cpu(machine.roots)
    assert (cpu.model, cpu.physical_cores, cpu.logical_cores) == ("AMD EPYC", 4, 8)
    assert cpu.instruction_sets == ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


def test_affinity_bounds_the_usable_cores(machine: Machine) -> None:
    assert read_cpu(machine.roots).usable_cores == 6


def test_a_quota_bounds_them_further(machine: Machine) -> None:
    machine.group("", cpu_max="150000 100000")
    assert read_cpu(machine.roots).usable_cores == 1.5


def test_a_quota_of_a_parent_counts(machine: Machine) -> None:
    machine.proc("self/cgroup", "0::/pod/job\n")
    machine.group("pod/job", cpu_max="max 100000")
    machine.group("pod", cpu_max="200000 100000")
    assert read_cpu(machine.roots).usable_cores == 2


def test_a_quota_of_version_1_counts(machine: Machine) -> None:
    machine.proc("self/cgroup", "1:cpu,cpuacct:/\n")
    quota = machine.roots.cgroup / "cpu,cpuacct"
    quota.mkdir(parents=True)
    (quota / "cpu.cfs_quota_us").write_text("50000\n")
    (quota / "cpu.cfs_period_us").write_text("100000\n")
    assert read_cpu(machine.roots).usable_cores == 0.5


def test_utilization_is_the_share_of_the_usable_cores(machine: Machine) -> None:
    cpu = read_cpu(machine.roots, CpuTimes(used_s=10, read_s=0), CpuTimes(used_s=13, read_s=1))
    assert cpu.utilization == 0.5


def test_under_a_quota_the_groups_own_time_is_what_is_busy(machine: Machine) -> None:
    machine.group("", cpu_max="150000 100000", cpu_stat="usage_usec 2500000")
    assert read_times(machine.roots).used_s == 2.5


def test_without_a_quota_the_machines_time_is(machine: Machine) -> None:
    assert read_times(machine.roots).used_s == 200 / os.sysconf("SC_CLK_TCK")
