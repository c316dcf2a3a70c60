"""What the container of a run is: what it sees, what it may do, and how much it may take.

The run's directory is mounted at the path that it has on the machine, and so is each input that
`inputs.json` names: the worker and the service tell each other paths, and both mean the same files.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount
from huggingface_hub.constants import HF_HUB_CACHE

from services.common.specs import DeviceKind
from services.trainer.engines.engine import MARK
from services.trainer.environment import portable_environment
from services.trainer.runs.directory import RunDirectory, RunRecord
from services.trainer.settings import TrainerSettings

RUN_LABEL = "weighbridge.run"
RUN_DIR_LABEL = "weighbridge.run-dir"

_WORKER = ("python", "-m", "services.trainer.worker")
# Appended to by the container itself, so that nothing which a worker prints passes through the service.
_INTO_THE_LOG = ("/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1')
# The image knows no user of this number: libraries that ask for its name look here first.
_HOME = {"HOME": "/tmp", "USER": "weighbridge", "LOGNAME": "weighbridge"}
_PIDS = 4096
# What the daemon's own shutdown, or an administrator's `docker stop`, leaves for a last checkpoint.
_STOP_S = 30

# The arguments of the Docker SDK's `create_container` and of its `create_host_config`.
Container = tuple[dict[str, Any], dict[str, Any]]


def container_name(directory: RunDirectory) -> str:
    """Return the one name that a run's container has: of two that are created, the second is refused."""
    path = str(directory.path)
    # Two trainers may use one daemon, and each have a run of this name.
    return f"weighbridge-{directory.path.name}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"


def worker_container(directory: RunDirectory, env: Mapping[str, str], settings: TrainerSettings) -> Container:
    """Return the container of a run's worker, which gets `env` beside what any container gets."""
    record, online = directory.record(), needs_hub(directory)
    host_bytes = next((each.reserved_bytes for each in record.amounts if each.device == "host"), None)
    command = [*(settings.worker_command or _WORKER), str(directory.path)]
    container, host = _confined(command, settings, host_bytes)
    container["name"] = container_name(directory)
    container["entrypoint"] = [*_INTO_THE_LOG, str(directory.log_file)]
    container["environment"] |= {**env, **_gpu_environment(record), MARK: str(directory.path)}
    container["labels"] = {RUN_LABEL: record.run, RUN_DIR_LABEL: str(directory.path)}
    host["mounts"] = _mounts([*settings.docker_mounts, *_inputs(directory)], writable(directory))
    host["device_requests"] = _gpus(record)
    if online:
        container["environment"]["HF_HUB_CACHE"] = str(_hub_cache())
        host["network_mode"] = settings.docker_network
    return container, host


def probe_container(packages: Iterable[str], settings: TrainerSettings) -> Container:
    """Return a container that tells which packages its image can import."""
    python = (settings.worker_command or _WORKER)[0]
    return _confined([python, "-m", "services.trainer.probe", *packages], settings, None)


def needs_hub(directory: RunDirectory) -> bool:
    """Say whether the run's worker loads its model from the hub."""
    return directory.spec().spec.model.hub is not None


def writable(directory: RunDirectory) -> list[Path]:
    """Return the paths of the machine that a run's worker writes to."""
    # What one run has downloaded, the next finds: the hub's client keeps two from writing the same file.
    return [directory.path, *([_hub_cache()] if needs_hub(directory) else [])]


def _confined(command: list[str], settings: TrainerSettings, memory_bytes: int | None) -> Container:
    """Return a container that can read its image and compute, and no more."""
    uid, gid = settings.container_user
    container = {
        "image": settings.docker_image,
        "command": command,
        "user": f"{uid}:{gid}",
        "environment": {**_HOME, **portable_environment()},
        "stop_timeout": _STOP_S,
    }
    host = {
        **({} if memory_bytes is None else _limits(memory_bytes, settings)),
        "mounts": _mounts(settings.docker_mounts),
        "network_mode": "none",
        "read_only": True,
        # Compilers of kernels load what they have just written there.
        "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={settings.docker_tmp_bytes}"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": _PIDS,
        # The first process of a container hears no signal that it has not asked for: this one passes them on.
        "init": True,
        # A run that has ended goes on in its next attempt, if at all.
        "restart_policy": {"Name": "no"},
        "log_config": LogConfig(type="json-file", config={"max-size": "1m"}),
    }
    return container, host


def _limits(memory_bytes: int, settings: TrainerSettings) -> dict[str, int]:
    return {
        "mem_limit": memory_bytes,
        # The sum of both: without it the daemon would grant as much swap again.
        "memswap_limit": memory_bytes + settings.docker_swap_bytes,
        "shm_size": settings.docker_shm_bytes or memory_bytes,
    }


def _gpu_environment(record: RunRecord) -> dict[str, str]:
    # An image's own variable would make a runtime that looks at it hand out every GPU.
    return {} if record.device is DeviceKind.CUDA else {"NVIDIA_VISIBLE_DEVICES": "void"}


def _gpus(record: RunRecord) -> list[DeviceRequest]:
    if record.device is not DeviceKind.CUDA:
        return []
    uuids = [amount.device for amount in record.amounts if amount.device not in ("host", "disk")]
    return [DeviceRequest(device_ids=uuids, capabilities=[["gpu", "compute", "utility"]])]


def _mounts(read_only: Iterable[Path], writable: Iterable[Path] = ()) -> list[Mount]:
    # A path is named once, or the daemon refuses the container.
    paths = {path.absolute(): True for path in read_only} | {path.absolute(): False for path in writable}
    return [Mount(str(path), str(path), type="bind", read_only=only) for path, only in paths.items()]


def _inputs(directory: RunDirectory) -> Iterator[Path]:
    """Yield what the run reads. Not all of the node's cache: other projects' data is in there too."""
    for value in json.loads(directory.inputs_file.read_bytes()).values():
        # The directory of local models need not exist.
        if isinstance(value, str) and Path(value).is_absolute() and Path(value).exists():
            yield Path(value)


def _hub_cache() -> Path:
    return Path(HF_HUB_CACHE).absolute()
