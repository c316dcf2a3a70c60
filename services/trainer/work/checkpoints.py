"""Checkpoints: directories from which a run goes on as if it had never stopped.

step-00000120/
    checkpoint.json        what must be here, each file with its size; written last
    model.safetensors      every weight, under the names they have in memory; or
    adapter_model.safetensors   the adapter alone: its base is the same for the whole job
    optimizer.pt  scheduler.pt  rng_state.pth  trainer_state.json  (scaler.pt)
    rng_state_0.pth  rng_state_1.pth …     in place of rng_state.pth, one for each of several ranks
    best/                  the best weights so far, where the job is to keep those
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from services.common import atomic
from services.trainer.work.environment import library_versions
from services.trainer.work.errors import BadCheckpoint, Diverged

MANIFEST = "checkpoint.json"
BEST = "best"

_ALWAYS = frozenset({"optimizer.pt", "scheduler.pt", "trainer_state.json"})
_WEIGHTS = "model.safetensors"
_ADAPTER = "adapter_model.safetensors"
# One file, whatever the size: files are read by name.
_ONE_SHARD = "1000TB"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself."""

    step: int
    epoch: float
    files: Mapping[str, int]
    """Size of every other file, by its path."""
    best: Mapping[str, float] | None = None
    """State of `best.BestWeights`, where the job keeps the best weights."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that wrote it."""


def checkpoint_name(step: int) -> str:
    """Return the name of a step's directory."""
    return f"step-{step:08d}"


def finish_checkpoint(
    draft: Path, target: Path, step: int, epoch: float, best: Mapping[str, float] | None
) -> None:
    """Write the manifest of the files in `draft` and rename it to `target`, whole or not at all."""
    # Sizes find what a full disk or a torn copy leaves; that the bytes are right, the store's digest says.
    sizes = {str(path.relative_to(draft)): path.stat().st_size for path in draft.rglob("*") if path.is_file()}
    manifest = Manifest(step=step, epoch=epoch, files=sizes, best=best, versions=library_versions())
    atomic.write_json(draft / MANIFEST, asdict(manifest))
    atomic.publish_directory(draft, target)


def check_checkpoint(path: Path, adapter: bool, ranks: int) -> Manifest:
    """Return a checkpoint's manifest after looking whether everything is there, for each of `ranks` too.

    Raises:
        BadCheckpoint: it is not. transformers would begin afresh with whatever is missing, without a word.
    """
    step = _step(path)
    try:
        manifest = Manifest(**json.loads((path / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise BadCheckpoint(step, f"its list of files cannot be read: {error}") from error
    needed = {*_ALWAYS, *_random_states(ranks), _ADAPTER if adapter else _WEIGHTS}
    if unlisted := sorted(needed - set(manifest.files)):
        raise BadCheckpoint(manifest.step, f"{', '.join(unlisted)} is not among its files")
    for name, size_bytes in manifest.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size_bytes:
            raise BadCheckpoint(manifest.step, f"{name} is missing or not {size_bytes} bytes long")
    return manifest


def write_weights(model: PreTrainedModel | PeftModel, folder: Path, step: int) -> None:
    """Write a model's weights, or its adapter's, for `read_weights_into`.

    Raises:
        Diverged: a weight is no finite number: nothing could go on from here.
    """
    if any(not bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad):
        raise Diverged(step)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        # Whether the base has embeddings of another size than its hub's is asked of the hub, unless told.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        # Under the hub's older names, half the weights of some architectures would not be found again.
        model.save_pretrained(str(folder), save_original_format=False, max_shard_size=_ONE_SHARD)


def read_weights_into(model: PreTrainedModel | PeftModel, folder: Path, step: int) -> None:
    """Load what `write_weights` wrote, every tensor of it and nothing else.

    Raises:
        BadCheckpoint: a tensor is missing, left over, or of another shape.
    """
    adapter = isinstance(model, PeftModel)
    tensors = load_file(folder / (_ADAPTER if adapter else _WEIGHTS))
    expected = _expected(model)
    if wrong := sorted(set(tensors) ^ expected):
        raise BadCheckpoint(step, f"its tensors are not the model's: {', '.join(wrong[:4])}")
    try:
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, tensors)
        else:
            # Not strict: tied weights are in the file once. That nothing else lacks was seen above.
            model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise BadCheckpoint(step, f"a tensor has another shape: {error}") from error


def _expected(model: PreTrainedModel | PeftModel) -> set[str]:
    if isinstance(model, PeftModel):
        return set(get_peft_model_state_dict(model, save_embedding_layers=False))
    state: dict[str, Any] = model.state_dict()
    return set(state) - set(model.all_tied_weights_keys)


def _random_states(ranks: int) -> set[str]:
    # By the names that transformers gives them.
    return {f"rng_state_{number}.pth" for number in range(ranks)} if ranks > 1 else {"rng_state.pth"}


def copy_linked(source: Path, target: Path) -> None:
    """Copy a directory of files that are never changed, by links where the disk can."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)


def _step(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
