"""Holding a run to its part of a GPU, or each of its ranks to its part of its own."""

import threading
import time
from functools import partial

import torch

from services.trainer.work.inputs import RunInputs
from services.trainer.work.memory import MemoryWatch
from services.trainer.work.ranks import Ranks

_TELL_S = 0.2


def prepare_gpu(inputs: RunInputs, watch: MemoryWatch, ranks: Ranks) -> None:
    """Cap torch's allocator at what is reserved, and have the GPU watched. A run on the CPU has none.

    The first rank watches the other ranks' GPUs too, by what those tell.
    """
    if not inputs.gpus:
        return
    device = inputs.gpus[ranks.number]
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    reserved_bytes = inputs.reserved_bytes(device) or total_bytes
    # Past it, the allocator raises its own error of a full GPU, and the neighbours notice nothing.
    torch.cuda.set_per_process_memory_fraction(min(1.0, reserved_bytes / total_bytes))
    watch.watch_gpu(device, torch.cuda.memory_reserved)
    if not ranks.is_first:
        threading.Thread(target=_tell, args=(ranks,), name="gpu-bytes", daemon=True).start()
        return
    for number in range(1, ranks.count):
        watch.watch_gpu(inputs.gpus[number], partial(ranks.gpu_bytes.__getitem__, number))


def _tell(ranks: Ranks) -> None:
    while True:
        ranks.gpu_bytes[ranks.number] = torch.cuda.memory_reserved()
        time.sleep(_TELL_S)
