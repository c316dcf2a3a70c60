"""What the service has laid ready for the worker."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import DigestMismatch
from services.common.spec_wire import parse_resolved
from services.common.specs import DeviceKind, ResolvedSpec
from services.trainer.runs.directory import RunDirectory, RunRecord


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """One run's record, spec and files."""

    record: RunRecord
    resolved: ResolvedSpec
    dataset: Path
    """The data set's bytes."""
    base_model: Path | None
    """The artifact of the job that the model comes from."""
    start_from: Path | None
    """The checkpoint to go on from."""
    model_root: Path
    """Directory of the node's own models."""

    @property
    def device_count(self) -> int:
        """How many devices the run trains on, each with a process of its own."""
        placement = self.resolved.spec.placement
        return 1 if placement is None else placement.device_count or 1

    @property
    def gpus(self) -> tuple[str, ...]:
        """The run's GPUs, in the order of the ranks; none on the CPU."""
        if self.record.device is not DeviceKind.CUDA:
            return ()
        return tuple(amount.device for amount in self.record.amounts if amount.device not in ("host", "disk"))

    def reserved_bytes(self, device: str) -> int | None:
        """Return what is reserved on a device. None: nothing, and so there is nothing to keep to."""
        return next(
            (amount.reserved_bytes for amount in self.record.amounts if amount.device == device), None
        )


def read_inputs(directory: RunDirectory) -> RunInputs:
    """Read what the service wrote before it spawned the worker.

    Raises:
        DigestMismatch: the spec is not the one that was approved.
    """
    record, data = directory.record(), directory.spec_file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    # The service has looked too, but the file lay on a disk in between.
    if digest != record.spec_sha256.removeprefix("sha256:"):
        raise DigestMismatch(expected=record.spec_sha256, actual=digest)
    paths = json.loads(directory.inputs_file.read_bytes())
    return RunInputs(
        record=record,
        resolved=parse_resolved(data),
        dataset=Path(paths["dataset_path"]),
        base_model=_path(paths["base_model_dir"]),
        start_from=_path(paths["start_from_dir"]),
        model_root=Path(paths["model_root"]),
    )


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None
