"""The processes that train one run together, each on a device of its own: ranks, counted from 0.

Every rank does the same job on its share of each batch, and all agree on the gradients (data parallelism,
by torch's DistributedDataParallel). What is one thing for the whole run, the first rank does alone: it writes
events, checkpoints and artifact. Loads no torch before it must.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

# Longer than the longest thing that one rank does while the others wait: to write a large checkpoint. That a
# rank is gone is not found by waiting; see `crew`.
_PATIENCE = timedelta(hours=2)
_WORD_BYTES = 8
_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class SharedBytes:
    """A number of bytes for each rank, in memory that all ranks see once they are forked."""

    def __init__(self, count: int) -> None:
        self._words = memoryview(mmap.mmap(-1, count * _WORD_BYTES)).cast("q")

    def __getitem__(self, number: int) -> int:
        return self._words[number]

    def __setitem__(self, number: int, value: int) -> None:
        self._words[number] = value


class Ranks:
    """All ranks of a run, as one of them sees them. One alone waits for nobody and agrees with itself."""

    def __init__(self, number: int = 0, count: int = 1, gpu_bytes: SharedBytes | None = None) -> None:
        """Be rank `number` of `count`; `gpu_bytes` is what each holds of its GPU, as far as it has told."""
        self.number = number
        self.count = count
        self.gpu_bytes = gpu_bytes or SharedBytes(count)

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.number == 0

    def see_own_gpu_only(self) -> None:
        """Hide the other ranks' GPUs. Call it before anything looks for GPUs.

        Each rank's own is number 0 then, and nothing of it takes memory on another rank's by mistake.
        """
        if self.count == 1:
            return
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices: Sequence[str] = _numbers(self.count) if visible is None else visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[self.number] if self.number < len(devices) else ""

    def join(self, folder: Path, on_gpu: bool) -> None:
        """Meet the other ranks by a file in `folder`; libraries that look for a group see it from here on."""
        if self.count == 1:
            return
        import torch

        # They talk over this machine's own interface, which is there in a container without a network too.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        # Number 0 of its own devices, as each sees only one.
        values = (self.number, 0, self.count, self.count)
        os.environ.update({name: str(value) for name, value in zip(_OF_A_GROUP, values, strict=True)})
        # Without it accelerate chooses a number of threads, and warns that it did; the job chooses later.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=f"file://{folder / '.ranks'}",
            rank=self.number,
            world_size=self.count,
            timeout=_PATIENCE,
        )

    def agree(self, here: bool) -> bool:
        """Return whether `here` is true on any rank. Every rank must ask, at the same point of its work."""
        if self.count == 1:
            return here
        import torch

        answer = torch.tensor(int(here))
        torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
        return bool(answer)

    def wait(self) -> None:
        """Wait until every rank has come this far."""
        self.agree(False)

    @contextmanager
    def first_alone(self, needed: bool) -> Iterator[None]:
        """Where it is needed, let the first rank do the block before the others do it."""
        if needed and not self.is_first:
            self.wait()
        yield
        if needed and self.is_first:
            self.wait()

    def part(self) -> None:
        """End the group, once every rank has come this far. What is built from here on is built alone."""
        if self.count == 1:
            return
        import torch

        self.wait()
        torch.distributed.destroy_process_group()
        for name in _OF_A_GROUP:
            os.environ.pop(name, None)


def _numbers(count: int) -> Sequence[str]:
    return [str(number) for number in range(count)]
