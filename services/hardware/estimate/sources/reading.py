"""One reader for each source that a spec may name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import InvalidModel, InvalidSpec
from services.common.names import parse_project
from services.common.settings import CommonSettings
from services.common.specs import FileTree, TrainingSpec
from services.common.store import BlobStore
from services.hardware.estimate.sources.artifact import read_artifact
from services.hardware.estimate.sources.gguf import read_gguf
from services.hardware.estimate.sources.local import read_local
from services.hardware.estimate.sources.safety import refuse_code
from services.hardware.estimate.sources.source import Source

_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class Places:
    """Where models and secrets are."""

    store: BlobStore
    model_root: Path
    secrets_dir: Path

    @classmethod
    def of(cls, settings: CommonSettings) -> "Places":
        """Return the places that the settings name."""
        return cls(BlobStore(settings.store_url), settings.model_root, settings.secrets_dir)


def read_source(spec: TrainingSpec, base_artifact: FileTree | None, project: str, places: Places) -> Source:
    """Return the model that the spec names, checked for code.

    Raises:
        InvalidModel: it cannot be read, or not without running code.
        InvalidSpec: it names a secret that is not there.
    """
    source = _read(spec, base_artifact, project, places)
    refuse_code(source.name, source.config)
    _refuse_quantized(source)
    return source


def _read(spec: TrainingSpec, base_artifact: FileTree | None, project: str, places: Places) -> Source:
    model = spec.model
    if model.config is not None:
        return _inline(model.config)
    if model.path is not None:
        return read_local(model.path, places.model_root, spec.task)
    if model.job is not None:
        return read_artifact(model.job, base_artifact, places.store, spec.task)
    if model.hub is not None:
        # The hub's library is imported by those who ask for the hub.
        from services.hardware.estimate.sources.hub import read_hub

        token = _hub_token(spec, project, places.secrets_dir)
        return read_hub(model.hub, model.revision, token, spec.task)
    # Exactly one of the five is set: the contract sees to it.
    assert model.gguf is not None
    return read_gguf(model.gguf, places.model_root, spec.task)


def _inline(config: Mapping[str, Any]) -> Source:
    if not isinstance(config.get("model_type"), str):
        raise InvalidModel("config", "model_type is missing: name an architecture, such as vit")
    return Source(name=f"config of {config['model_type']}", config=config)


def _refuse_quantized(source: Source) -> None:
    if source.config.get("quantization_config"):
        detail = (
            "its weights are stored quantised: name the original weights and set quantization in the spec"
        )
        raise InvalidModel(source.name, detail)


def _hub_token(spec: TrainingSpec, project: str, secrets_dir: Path) -> str | None:
    named = next((secret for secret in spec.secrets if secret.env in _HUB_TOKENS), None)
    if named is None:
        return None
    # The secret's name passed the contract's pattern, which holds no dot and no slash; the project's does
    # here.
    path = secrets_dir / parse_project(f"projects/{project.removeprefix('projects/')}") / named.secret
    try:
        return path.read_text().strip()
    except OSError:
        raise InvalidSpec(
            "secrets", named.secret, f"project {project or '(none)'} has no such secret"
        ) from None
