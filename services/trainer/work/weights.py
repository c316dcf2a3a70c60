"""The weights that a run begins with: a hub's, those of the node's own models, or another job's artifact."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from services.common.errors import InvalidModel
from services.common.specs import ResolvedModel, WeightFile
from services.trainer.recipes import Weights
from services.trainer.runs.records import StartPhase
from services.trainer.work.errors import FetchFailed
from services.trainer.work.events import EventWriter
from services.trainer.work.hub import fetch_from_hub
from services.trainer.work.inputs import RunInputs

_CONFIG = "config.json"
_BLOCK_BYTES = 1 << 20


def read_weights(inputs: RunInputs, events: EventWriter) -> Weights | None:
    """Return the weights that the resolved model names. None: it is initialised at random.

    Raises:
        FetchFailed: a file cannot be had, or is not the one that was resolved.
        InvalidModel: a file is no safetensors file.
    """
    source, model = inputs.resolved.spec.model, inputs.resolved.model
    if source.config is not None:
        return None
    # The service checked its digest when it fetched it.
    if source.job is not None:
        if inputs.base_model is None:
            raise FetchFailed(source.job, "the service laid no artifact ready")
        return _read(inputs.base_model, sorted(inputs.base_model.glob("*.safetensors")), complete=True)
    events.phase(StartPhase.FETCHING_WEIGHTS, total_bytes=sum(file.size_bytes for file in model.weight_files))
    if source.hub is not None:
        folder = fetch_from_hub(source.hub, model, [_CONFIG], events)
    else:
        folder = _local_folder(inputs.model_root, model)
    files = [folder / file.path for file in model.weight_files]
    for path, file in zip(files, model.weight_files, strict=True):
        _verify(path, file)
    return _read(folder, files, complete=False)


def _local_folder(model_root: Path, model: ResolvedModel) -> Path:
    # Links may lead out of the root as well as dots.
    root = model_root.resolve()
    folder = (root / model.location).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise FetchFailed(model.location, "there is no such directory under this node's model root")
    return folder


def _verify(path: Path, file: WeightFile) -> None:
    """Compare a file with what the resolved spec says of it: what was weighed is what is loaded."""
    if not path.is_file():
        raise FetchFailed(file.path, "the file is missing")
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes:
        raise FetchFailed(
            file.path, f"it has {size_bytes} bytes and had {file.size_bytes} when it was resolved"
        )
    if file.sha256:
        digest = hashlib.sha256()
        with path.open("rb") as opened:
            while block := opened.read(_BLOCK_BYTES):
                digest.update(block)
        if digest.hexdigest() != file.sha256:
            raise FetchFailed(file.path, "its bytes are not those that were resolved")


def _read(folder: Path, files: Sequence[Path], complete: bool) -> Weights:
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        if path.suffix != ".safetensors":
            raise InvalidModel(
                model=path.name, detail="weights load from safetensors only, never from pickles"
            )
        try:
            # Mapped, not read: a page takes memory when it is used.
            tensors.update(load_file(path))
        except SafetensorError as error:
            raise InvalidModel(model=path.name, detail=f"it cannot be read: {error}") from error
    return Weights(tensors=tensors, labels=_labels(folder / _CONFIG), complete=complete)


def _labels(config_file: Path) -> tuple[str, ...]:
    """Return what the head's outputs mean, by the model's own config."""
    if not config_file.is_file():
        return ()
    config: Mapping[str, Any] = json.loads(config_file.read_bytes())
    names: Mapping[str, str] = config.get("id2label") or {}
    return tuple(names[index] for index in sorted(names, key=int))
