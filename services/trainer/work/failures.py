"""What an error means to the one who ran the job."""

import errno
import re
import shutil
from pathlib import Path

from services.common.errors import ServiceError
from services.common.failures import Failure, failure_of
from services.trainer.runs.failing import bad_checkpoint, broken_promise, fetch_failed
from services.trainer.work.errors import BadCheckpoint, BadItem, Diverged, FetchFailed

_MIB = 1 << 20
# Allocators say it in these words; only CUDA's has a class of its own.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|can't start new thread")
_ASKED_FOR = re.compile(r"tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Neither safetensors nor torch passes the system's error on as one.
_DISK_FULL = re.compile(r"No space left on device|PytorchStreamWriter failed writing")
# gloo and NCCL have no class of their own for it that both share.
_PEER_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)


def is_about_a_peer(error: BaseException) -> bool:
    """Say whether an error may mean no more than that another rank of the run is gone."""
    return isinstance(error, (RuntimeError, OSError)) and bool(_PEER_LOST.search(str(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def asked_for_bytes(error: BaseException) -> int:
    """Return what the allocation that failed had asked for; 0 where it does not say."""
    found = _ASKED_FOR.search(str(error))
    return int(float(found.group(1)) * _UNITS[found.group(2)]) if found else 0


def failure_from(error: BaseException, run_path: Path) -> Failure:
    """Return the failure of the run in `run_path` that ended in `error`, which is no lack of memory."""
    match error:
        case BadItem():
            message = f"{error.item} cannot be used: {error.detail}; replace it and upload the data again"
            return _failure("BAD_DATA", message, item=error.item, detail=error.detail)
        case Diverged():
            message = (
                f"the loss became infinite or not a number at step {error.step}: lower learning_rate, "
                "warm up longer, or clip with max_grad_norm"
            )
            return _failure("DIVERGED", message, step=str(error.step))
        case BadCheckpoint():
            return bad_checkpoint(error.step, error.detail)
        case FetchFailed():
            return fetch_failed(error.item, error.detail)
        case ServiceError():
            return failure_of(error)
        case _ if _is_disk_full(error):
            return _disk_full(run_path)
        case _:
            return broken_promise(
                type(error).__name__, str(error)[:2000] or "no message; the log has the rest"
            )


def _is_disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or bool(_DISK_FULL.search(str(error)))


def _disk_full(path: Path) -> Failure:
    free_bytes = shutil.disk_usage(path).free
    message = (
        f"the disk of {path} is full, with {free_bytes / _MIB:,.0f} MiB free: delete finished jobs, or "
        "choose a node with more room"
    )
    # What was being written is not known here.
    return _failure("DISK_FULL", message, path=str(path), needed_bytes="", free_bytes=str(free_bytes))


def _failure(reason: str, message: str, **metadata: str) -> Failure:
    return Failure(reason=reason, message=message, metadata=metadata)
