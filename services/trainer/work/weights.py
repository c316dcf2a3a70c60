"""The weights that a run begins with: a hub's, those of the node's own models, or another job's artifact."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from services.common.errors import InvalidModel
from services.common.specs import Precision, Task, WeightFile
from services.trainer.recipes import Weights
from services.trainer.recipes.model import storage_dtype
from services.trainer.recipes.precision import choose_precision
from services.trainer.runs.records import StartPhase
from services.trainer.work.environment import detect_hardware
from services.trainer.work.errors import FetchFailed
from services.trainer.work.events import EventWriter
from services.trainer.work.hub import fetch_from_hub
from services.trainer.work.inputs import RunInputs

_CONFIG = "config.json"
_BLOCK_BYTES = 1 << 20


def read_weights(
    inputs: RunInputs, config: PreTrainedConfig, events: EventWriter | None = None
) -> Weights | None:
    """Return the weights that the resolved model names. None: it is initialised at random.

    How far it is, is told to `events`.

    Raises:
        FetchFailed: a file cannot be had, or is not the one that was resolved.
        InvalidModel: a file is neither safetensors nor GGUF, or cannot be read.
    """
    source, model = inputs.resolved.spec.model, inputs.resolved.model
    if source.config is not None:
        return None
    # The service checked its digest when it fetched it.
    if source.job is not None:
        if inputs.base_model is None:
            raise FetchFailed(source.job, "the service laid no artifact ready")
        files = sorted(inputs.base_model.glob("*.safetensors"))
        return _read(inputs, inputs.base_model, files, complete=True)
    if events is not None:
        size_bytes = sum(file.size_bytes for file in model.weight_files)
        events.phase(StartPhase.FETCHING_WEIGHTS, total_bytes=size_bytes)
    if source.gguf is not None:
        return _read_gguf(inputs, config, gguf_file(inputs))
    folder = model_folder(inputs, model.weight_files, events)
    return _read(inputs, folder, [folder / file.path for file in model.weight_files], complete=False)


def model_folder(inputs: RunInputs, files: Sequence[WeightFile], events: EventWriter | None = None) -> Path:
    """Return the directory of a hub's or a node's model, in which `files` are those that were resolved.

    Raises:
        FetchFailed: one of them cannot be had, or is another.
    """
    source, model = inputs.resolved.spec.model, inputs.resolved.model
    if source.hub is not None:
        folder = fetch_from_hub(source.hub, model.revision, files, [_CONFIG], events)
    else:
        folder = _under_root(inputs)
        if not folder.is_dir():
            raise FetchFailed(model.location, "there is no such directory under this node's model root")
    for file in files:
        _verify(folder / file.path, file)
    return folder


def gguf_file(inputs: RunInputs) -> Path:
    """Return the GGUF file that the spec names, as it was resolved.

    Raises:
        FetchFailed: it is missing, or another.
    """
    found, files = _under_root(inputs), inputs.resolved.model.weight_files
    path = found / files[0].path if found.is_dir() and files else found
    if not path.is_file():
        raise FetchFailed(
            inputs.resolved.model.location, "there is no such file under this node's model root"
        )
    for file in files:
        _verify(path, file)
    return path


def _under_root(inputs: RunInputs) -> Path:
    # Links may lead out of the root as well as dots.
    root, location = inputs.model_root.resolve(), inputs.resolved.model.location
    found = (root / location).resolve()
    if not found.is_relative_to(root):
        raise FetchFailed(location, "it leads out of this node's model root")
    return found


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


def _read(inputs: RunInputs, folder: Path, files: Sequence[Path], complete: bool) -> Weights:
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
    # Only a classifier's head means something that may have changed.
    classifies = inputs.resolved.spec.task is Task.IMAGE_CLASSIFICATION
    return Weights(tensors=tensors, labels=_labels(folder / _CONFIG) if classifies else (), complete=complete)


def _read_gguf(inputs: RunInputs, config: PreTrainedConfig, path: Path) -> Weights:
    """Return a GGUF file's weights, unpacked into the format in which the run stores them."""
    from transformers import GgufConfig

    from services.trainer.recipes.language_model import language_model_class

    spec = inputs.resolved.spec
    precision = choose_precision(spec.precision or Precision.AUTO, detect_hardware(inputs.record.device))
    try:
        model: Any = language_model_class(config).from_pretrained(
            path.parent,
            gguf_file=path.name,
            local_files_only=True,
            dtype=storage_dtype(spec, precision),
            # Otherwise it counts as quantised for ever, and nothing trains what is.
            quantization_config=GgufConfig(dequantize=True),
        )
    except (OSError, ValueError, KeyError) as error:
        raise InvalidModel(
            model=path.name, detail=f"it cannot be read: {str(error).splitlines()[0]}"
        ) from error
    return Weights(tensors=model.state_dict(), labels=(), complete=False)


def _labels(config_file: Path) -> tuple[str, ...]:
    """Return what the head's outputs mean, by the model's own config."""
    if not config_file.is_file():
        return ()
    config: Mapping[str, Any] = json.loads(config_file.read_bytes())
    names: Mapping[str, str] = config.get("id2label") or {}
    return tuple(names[index] for index in sorted(names, key=int))
