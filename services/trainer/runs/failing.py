"""Why runs fail: each way as a failure with the keys that weighbridge.errors.v1.Reason names."""

import signal

from services.common.failures import Failure

GIB = 1 << 30
MIB = 1 << 20
START_REFUSED = "START_REFUSED"


class RunFails(Exception):
    """Ends a run as failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def worker_lost(run: str, detail: str) -> Failure:
    """Return the failure of a run whose process vanished without an outcome."""
    message = f"the worker of {run} ended without an outcome: {detail}"
    return Failure(reason="WORKER_LOST", message=message, metadata={"run": run})


def rank_lost(run: str, number: int, count: int, detail: str) -> Failure:
    """Return the failure of a run of which one of several processes vanished without a word."""
    message = (
        f"rank {number} of the {count} of {run}, counted from 0, ended before its work was done: {detail}"
    )
    return Failure(reason="WORKER_LOST", message=message, metadata={"run": run})


def lease_ended(run: str) -> Failure:
    """Return the failure of a run that was stopped because its node may be given up soon."""
    message = f"{run} was stopped: its node did not hear from the gateway before its lease ended"
    return Failure(reason="WORKER_LOST", message=message, metadata={"run": run})


def describe_exit(status: int | None) -> str:
    """Say how a process ended; `status` is its exit status, or minus a signal, or unknown."""
    if status is None:
        return "nobody saw how"
    if status == -signal.SIGKILL:
        return "it was killed (signal 9), by the system for want of memory or by an administrator"
    return f"signal {-status}" if status < 0 else f"exit status {status}; its log may say why"


def start_refused(run: str, detail: str) -> Failure:
    """Return the failure of a run whose reservation the node would not activate."""
    message = f"{run} was not started: {detail}"
    return Failure(reason=START_REFUSED, message=message, metadata={"run": run, "detail": detail})


def max_duration_exceeded(limit_s: float) -> Failure:
    """Return the failure of a run that ran longer than its spec allows."""
    message = (
        f"stopped after its maximum duration of {limit_s:g} s: raise scheduling.max_duration, or resume it"
    )
    return Failure(reason="MAX_DURATION_EXCEEDED", message=message, metadata={"limit": f"{limit_s:g}s"})


def memory_overrun(
    device: str, predicted_bytes: int, limit_bytes: int, actual_bytes: int | None = None
) -> Failure:
    """Return the failure of a run that needed more than it had reserved. None: nobody knows how much more."""
    needed = f"{(actual_bytes or limit_bytes) / MIB:,.0f} MiB"
    message = (
        f"it needed {needed if actual_bytes else f'more than {needed}'} on {device}, with "
        f"{limit_bytes / MIB:,.0f} MiB reserved ({predicted_bytes / MIB:,.0f} MiB predicted): lower "
        "per_device_train_batch_size and raise gradient_accumulation_steps by the same factor"
    )
    return Failure(
        reason="MEMORY_OVERRUN",
        message=message,
        metadata={
            "device": device,
            "predicted_bytes": str(predicted_bytes),
            "limit_bytes": str(limit_bytes),
            "actual_bytes": str(actual_bytes or limit_bytes),
        },
    )


def fetch_failed(item: str, detail: str) -> Failure:
    """Return the failure of a run that lacks one of its inputs."""
    message = f"{item} could not be fetched: {detail}"
    return Failure(reason="FETCH_FAILED", message=message, metadata={"item": item, "detail": detail})


def bad_checkpoint(step: int, detail: str) -> Failure:
    """Return the failure of a run whose checkpoint cannot be read back whole."""
    message = f"the checkpoint of step {step} cannot be read back: {detail}"
    return Failure(reason="BAD_CHECKPOINT", message=message, metadata={"step": str(step), "detail": detail})


def disk_full(path: str, needed_bytes: int, free_bytes: int) -> Failure:
    """Return the failure of a run that a disk has no room for."""
    message = (
        f"{needed_bytes / GIB:.2f} GiB are needed on {path}, which has {free_bytes / GIB:.2f} GiB free: "
        "delete finished jobs, or choose a node with more room"
    )
    metadata = {"path": path, "needed_bytes": str(needed_bytes), "free_bytes": str(free_bytes)}
    return Failure(reason="DISK_FULL", message=message, metadata=metadata)


def broken_promise(kind: str, detail: str) -> Failure:
    """Return the failure of a run whose worker did not keep to the run directory's rules."""
    return Failure(reason="TRAINING_ERROR", message=detail, metadata={"type": kind, "detail": detail})
