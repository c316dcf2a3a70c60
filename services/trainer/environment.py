"""The environment of child processes: what they need, by name, and no credential of the service."""

import os
from pathlib import Path

from services.common.specs import DeviceKind, ResolvedSpec, SecretReference
from services.trainer.runs.directory import RunRecord
from services.trainer.runs.failing import RunFails, fetch_failed

# A worker gets what it needs by name: a list of what to hide from it would always lack one.
_PASSED_ON = {
    *("PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH"),
    *("LD_LIBRARY_PATH", "XDG_CACHE_HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HF_HOME", "HF_HUB_CACHE"),
    *("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}
# Of those, what means the same on another file system and leaves the choice of GPUs to the engine.
_PORTABLE = {
    *("LANG", "LANGUAGE", "TZ", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy"),
}
_PORTABLE_PREFIXES = ("LC_", "OMP_", "MKL_", "NCCL_", "PYTORCH_")
_PASSED_ON_PREFIXES = ("LC_", "OMP_", "MKL_", "CUDA_", "NVIDIA_", "NCCL_", "TORCH_", "PYTORCH_", "TRITON_")


def inherited_environment() -> dict[str, str]:
    """Return what a child process gets of this service's own environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }


def portable_environment() -> dict[str, str]:
    """Return what a container gets of this service's own environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PORTABLE or name.startswith(_PORTABLE_PREFIXES)
    }


def worker_environment(record: RunRecord, spec: ResolvedSpec, secrets_dir: Path) -> dict[str, str]:
    """Return the variables that a worker gets beside what it inherits. Blocks.

    Raises:
        RunFails: the node does not have a secret that the spec names.
    """
    env = {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": _gpus(record)}
    if spec.spec.model.hub is None:
        env["HF_HUB_OFFLINE"] = "1"
    for reference in spec.spec.secrets:
        env[reference.env] = _secret(reference, secrets_dir / record.project)
    return env


def _gpus(record: RunRecord) -> str:
    """Return the UUIDs of the run's GPUs. A run on the CPU sees none, whatever the machine has."""
    if record.device is not DeviceKind.CUDA:
        return ""
    return ",".join(amount.device for amount in record.amounts if amount.device not in ("host", "disk"))


def _secret(reference: SecretReference, directory: Path) -> str:
    path = directory / reference.secret
    # A name is one component: whatever the spec holds, nothing beside the project's directory is read.
    if path.parent != directory or reference.secret in ("", ".", ".."):
        raise RunFails(fetch_failed(f"secret {reference.secret}", "its name is not one of a secret"))
    try:
        return path.read_text().rstrip("\n")
    except OSError as error:
        raise RunFails(fetch_failed(f"secret {reference.secret}", error.strerror or str(error))) from error
