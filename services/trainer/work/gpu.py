"""Holding a run to its part of a GPU."""

import torch

from services.common.specs import DeviceKind
from services.trainer.work.inputs import RunInputs
from services.trainer.work.memory import HOST, MemoryWatch


def prepare_gpu(inputs: RunInputs, watch: MemoryWatch) -> None:
    """Cap torch's allocator at what is reserved, and have the GPU watched. A run on the CPU has none."""
    if inputs.record.device is not DeviceKind.CUDA:
        return
    device = next(amount.device for amount in inputs.record.amounts if amount.device not in (HOST, "disk"))
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    reserved_bytes = inputs.reserved_bytes(device) or total_bytes
    # Past it, the allocator raises its own error of a full GPU, and the neighbours notice nothing.
    torch.cuda.set_per_process_memory_fraction(min(1.0, reserved_bytes / total_bytes))
    watch.watch_gpu(device, torch.cuda.memory_reserved)
