import threading
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from services.hardware.inventory.gpus import GpuReader
from services.hardware.units import GIB
from tests.hardware.inventory.fake_nvml import FakeGpu, FakeNvml
from tests.hardware.inventory.machine import Machine

Read = Callable[[FakeNvml], GpuReader]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def reader(machine: Machine) -> Read:
    return lambda nvml: GpuReader(machine.roots, nvml, patience_s=2.0)


def test_a_gpu_is_read_with_everything_that_decides(reader: Read) -> None:
    reading = reader(FakeNvml(FakeGpu())).read()
    (gpu,) = reading.gpus
    assert (gpu.uuid, gpu.index, gpu.product) == ("GPU-0", 0, "NVIDIA H100 80GB HBM3")
    assert (gpu.total_bytes, gpu.free_bytes) == (80 * GIB, 79 * GIB)
    assert (gpu.compute_capability, gpu.driver_version, gpu.cuda_version) == ("9.0", "580.65", "13.0")
    assert (gpu.utilization, gpu.temperature_celsius, gpu.power_watts, gpu.mig) == (0.4, 55, 250.0, False)
    assert reading.problems == ()


def test_foreign_processes_are_listed_as_far_as_they_can_be_seen(reader: Read, machine: Machine) -> None:
    machine.proc("4242/comm", "blender\n")
    nvml = FakeNvml(FakeGpu(processes=[(4242, 3 * GIB), (77, None)]))
    first, second = reader(nvml).read().gpus[0].processes
    assert (first.pid, first.used_bytes, first.command) == (4242, 3 * GIB, "blender")
    # Another user's process, or one of the host seen from a container.
    assert (second.pid, second.used_bytes, second.command) == (77, 0, "")


def test_a_machine_without_a_driver_has_no_gpus_and_no_problem(reader: Read) -> None:
    reading = reader(FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)).read()
    assert (reading.gpus, reading.problems) == ((), ())


def test_a_driver_that_the_container_cannot_ask_is_a_problem(reader: Read, machine: Machine) -> None:
    machine.proc("driver/nvidia/version", "580")
    (problem,) = reader(FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)).read().problems
    assert "NVIDIA_DRIVER_CAPABILITIES=utility" in problem


def test_slices_stand_in_for_the_gpu_that_is_cut_up(reader: Read) -> None:
    slices = [FakeGpu(uuid=f"MIG-{i}", total=10 * GIB, broken={"utilization"}) for i in range(2)]
    gpus = reader(FakeNvml(FakeGpu(slices=slices))).read().gpus
    assert [(gpu.uuid, gpu.total_bytes, gpu.mig) for gpu in gpus] == [
        ("MIG-0", 10 * GIB, True),
        ("MIG-1", 10 * GIB, True),
    ]
    assert [gpu.compute_capability for gpu in gpus] == ["9.0", "9.0"]


def test_a_gpu_without_slices_in_mig_mode_is_a_problem(reader: Read) -> None:
    reading = reader(FakeNvml(FakeGpu(slices=[]))).read()
    assert (reading.gpus, len(reading.problems)) == ((), 1)


def test_what_a_product_cannot_tell_is_left_out(reader: Read) -> None:
    nvml = FakeNvml(FakeGpu(broken={"utilization", "temperature", "power"}))
    reading = reader(nvml).read()
    assert (reading.gpus[0].utilization, reading.gpus[0].power_watts, reading.problems) == (0.0, 0.0, ())


def test_a_gpu_that_is_lost_stays_with_no_free_memory(reader: Read) -> None:
    nvml = FakeNvml(FakeGpu(uuid="GPU-0"), FakeGpu(uuid="GPU-1"))
    one_reader = reader(nvml)
    one_reader.read()
    nvml.gpus[1].broken = {"memory"}
    reading = one_reader.read()
    assert [(gpu.uuid, gpu.free_bytes) for gpu in reading.gpus] == [("GPU-0", 79 * GIB), ("GPU-1", 0)]
    assert "GPU 1" in reading.problems[0]
    nvml.gpus[1].broken = set()
    assert one_reader.read().gpus[1].free_bytes == 79 * GIB


def test_a_driver_that_goes_away_does_not_take_the_gpus_along(reader: Read) -> None:
    nvml = FakeNvml(FakeGpu())
    one_reader = reader(nvml)
    one_reader.read()
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    reading = one_reader.read()
    assert [gpu.free_bytes for gpu in reading.gpus] == [0]
    assert len(reading.problems) == 1


def test_a_driver_that_never_returns_holds_nobody_up(machine: Machine) -> None:
    release = threading.Event()

    class Wedged(FakeNvml):
        def nvmlDeviceGetCount(self) -> int:
            release.wait()
            return super().nvmlDeviceGetCount()

    reader = GpuReader(machine.roots, Wedged(FakeGpu()), patience_s=0.05)
    assert "does not return" in reader.read().problems[0]
    assert "does not return" in reader.read().problems[0]
    release.set()


def test_the_real_library_can_be_asked_on_any_machine(machine: Machine) -> None:
    assert all(gpu.total_bytes > 0 for gpu in GpuReader(machine.roots).read().gpus)
