"""A stand-in for the module pynvml: GPUs cost money."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

from services.hardware.units import GIB


@dataclass
class FakeGpu:
    """One GPU; `broken` holds the names of queries that it does not answer."""

    uuid: str = "GPU-0"
    name: str = "NVIDIA H100 80GB HBM3"
    total: int = 80 * GIB
    used: int = GIB
    capability: tuple[int, int] = (9, 0)
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    slices: list["FakeGpu"] | None = None
    broken: set[str] = field(default_factory=set)


class FakeNvml:
    """Answers as pynvml does, with its exceptions."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotFound = pynvml.NVMLError_NotFound  # type: ignore[attr-defined]
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, *gpus: FakeGpu, init_error: int | None = None) -> None:
        self.gpus = list(gpus)
        self.init_error = init_error

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)

    def nvmlShutdown(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13000

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._answer(self.gpus[index], "handle")

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        self._answer(gpu, "memory")
        return SimpleNamespace(total=gpu.total, free=gpu.total - gpu.used, used=gpu.used)

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> bytes:
        return gpu.name.encode()

    def nvmlDeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> tuple[int, int]:
        return gpu.capability

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        self._answer(gpu, "utilization")
        return SimpleNamespace(gpu=40, memory=10)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        self._answer(gpu, "temperature")
        return 55

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        self._answer(gpu, "power")
        return 250_000

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[Any]:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> tuple[int, int]:
        if gpu.slices is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, slot: int) -> FakeGpu:
        if slot >= len(gpu.slices or []):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return (gpu.slices or [])[slot]

    def _answer(self, gpu: FakeGpu, query: str) -> FakeGpu:
        if query in gpu.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return gpu
