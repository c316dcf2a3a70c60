"""GPUs through NVML. torch is never asked: the node role carries none, and a CUDA context costs memory.

What cannot be read never makes a GPU disappear, since a job would then be rejected for good: one that was
seen before and does not answer now stays, with no free memory, and a problem says so.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pynvml

from services.hardware.inventory.roots import Roots, read_text
from services.hardware.resources import Gpu, GpuProcess

T = TypeVar("T")

# A wedged driver blocks for ever, and a node that waits for it could not even say so.
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class GpuReading:
    """The GPUs as they are now, and what could not be found out about them, in words."""

    gpus: tuple[Gpu, ...] = ()
    problems: tuple[str, ...] = ()


class GpuReader:
    """Reads the GPUs again and again. `nvml` is the module `pynvml`, or what stands in for it in a test."""

    def __init__(self, roots: Roots, nvml: Any = pynvml, patience_s: float = _PATIENCE_S) -> None:
        self._roots = roots
        self._nvml = nvml
        self._patience_s = patience_s
        self._pending: threading.Thread | None = None
        self._last = GpuReading()

    def read(self) -> GpuReading:
        """Return the GPUs. Blocks for at most the patience, and once only, however wedged the driver is."""
        if self._pending is None:
            # A daemon, so that a wedged driver does not keep the service from ending either.
            self._pending = threading.Thread(target=self._remember, name="nvml", daemon=True)
            self._pending.start()
            self._pending.join(self._patience_s)
        if self._pending.is_alive():
            return self._silent("the GPU driver does not return from a call")
        self._pending = None
        return self._last

    def _remember(self) -> None:
        self._last = self._read()

    def _read(self) -> GpuReading:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            return self._without_driver(error)
        try:
            return self._read_all()
        except self._nvml.NVMLError as error:
            return self._silent(f"the GPU driver does not answer: {error}")
        finally:
            # Initialised anew each time: a driver that was reloaded answers no handle from before.
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _read_all(self) -> GpuReading:
        nvml = self._nvml
        driver = _Driver(
            _text(nvml.nvmlSystemGetDriverVersion()), _cuda(nvml.nvmlSystemGetCudaDriverVersion())
        )
        gpus: list[Gpu] = []
        problems: list[str] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found = list(self._read_one(index, driver))
            except nvml.NVMLError as error:
                problems.append(f"GPU {index} does not answer: {error}")
                found = [replace(gpu, free_bytes=0) for gpu in self._last.gpus if gpu.index == index]
            if not found:
                problems.append(f"GPU {index} offers nothing that a job could use")
            gpus.extend(found)
        return GpuReading(tuple(gpus), tuple(problems))

    def _read_one(self, index: int, driver: "_Driver") -> Iterator[Gpu]:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        # Read also where it is cut up: a board that does not answer has no slices to offer either.
        whole = self._gpu(handle, index, driver, handle, mig=False)
        if not self._in_mig_mode(handle):
            yield whole
            return
        for slot in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                part = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
            # Slots are numbered with gaps.
            except self._nvml.NVMLError_NotFound:
                continue
            yield self._gpu(part, index, driver, handle, mig=True)

    def _gpu(self, handle: Any, index: int, driver: "_Driver", board: Any, *, mig: bool) -> Gpu:
        nvml = self._nvml
        # What must be known is asked for directly, and its error is the GPU's; the rest may be missing.
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        utilization = self._try(None, nvml.nvmlDeviceGetUtilizationRates, handle)
        return Gpu(
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            index=index,
            product=_text(self._try("", nvml.nvmlDeviceGetName, handle)),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            # A slice answers no question about its board.
            compute_capability="{}.{}".format(*nvml.nvmlDeviceGetCudaComputeCapability(board)),
            driver_version=driver.version,
            cuda_version=driver.cuda_version,
            mig=mig,
            utilization=0.0 if utilization is None else utilization.gpu / 100,
            temperature_celsius=self._try(0, nvml.nvmlDeviceGetTemperature, board, nvml.NVML_TEMPERATURE_GPU),
            power_watts=self._try(0, nvml.nvmlDeviceGetPowerUsage, board) / 1000,
            processes=tuple(self._processes(handle)),
        )

    def _processes(self, handle: Any) -> Iterator[GpuProcess]:
        compute: list[Any] = self._try([], self._nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        graphics: list[Any] = self._try([], self._nvml.nvmlDeviceGetGraphicsRunningProcesses, handle)
        for process in itertools.chain(compute, graphics):
            # In a container the id is the host's, which names nothing here, or somebody else.
            command = read_text(self._roots.proc / str(process.pid) / "comm") or ""
            yield GpuProcess(pid=process.pid, used_bytes=process.usedGpuMemory or 0, command=command)

    def _in_mig_mode(self, handle: Any) -> bool:
        current, _ = self._try((0, 0), self._nvml.nvmlDeviceGetMigMode, handle)
        return bool(current)

    def _try(self, default: T, query: Callable[..., T], *arguments: Any) -> T:
        """Ask for what not every product can tell."""
        try:
            return query(*arguments)
        except self._nvml.NVMLError:
            return default

    def _without_driver(self, error: Exception) -> GpuReading:
        if self._last.gpus:
            return self._silent(f"the GPU driver went away: {error}")
        if (self._roots.proc / "driver/nvidia").exists():
            remedy = "in a container, set NVIDIA_DRIVER_CAPABILITIES=utility"
            return GpuReading(
                problems=(f"an NVIDIA driver is loaded but cannot be asked: {error}; {remedy}",)
            )
        return GpuReading()

    def _silent(self, problem: str) -> GpuReading:
        return GpuReading(tuple(replace(gpu, free_bytes=0) for gpu in self._last.gpus), (problem,))


@dataclass(frozen=True)
class _Driver:
    version: str
    cuda_version: str


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
