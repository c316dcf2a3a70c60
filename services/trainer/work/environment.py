"""What a run ran on: library versions, hardware, and the threads that suit it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from services.common.specs import DeviceKind
from services.trainer.recipes import Hardware

_LIBRARIES = ("torch", "torchvision", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow")
# Parameters times examples of a step below which it is bound by starting operations, not by arithmetic.
# Measured on 2 cores: a ViT of 0.3 M parameters, batch 32, takes 30 ms a step with one thread and 22 with
# two, but 40 to 140 with two when another job uses the cores; one of 22 M, batch 4, takes 730 and 390 ms.
_ONE_THREAD_BELOW = 32_000_000


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a training computes."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def detect_hardware(device: DeviceKind) -> Hardware:
    """Return what decides between kernels and number formats on this machine."""
    if device is not DeviceKind.CUDA:
        return Hardware()
    return Hardware(
        device=DeviceKind.CUDA,
        compute_capability=torch.cuda.get_device_capability(),
        flash_attention=find_spec("flash_attn") is not None,
    )


def usable_cores() -> int:
    """Return the cores that this process may use: by affinity and, in a container, by quota."""
    # torch asks for neither: in a container it would start a thread for each core of the machine.
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def threads_for(parameters: int, batch: int, cores: int) -> int:
    """Return how many threads a training step deserves.

    It depends on the job and the machine alone: with another number, sums are rounded otherwise, and a run
    that goes on would not end with the weights of one that was never stopped.
    """
    return 1 if parameters * batch < _ONE_THREAD_BELOW else cores


def describe(device: DeviceKind) -> dict[str, Any]:
    """Return libraries and hardware for `environment.json`."""
    hardware: dict[str, Any] = {
        "device": device.value,
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if device is DeviceKind.CUDA:
        hardware["gpu"] = torch.cuda.get_device_name()
        hardware["cuda"] = torch.version.cuda
    return {"libraries": library_versions(), "platform": platform.platform(), "hardware": hardware}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
