"""A directory or a file under the platform's model root."""

import hashlib
import os
from pathlib import Path

from services.common.errors import InvalidModel
from services.common.specs import Task, WeightFile
from services.hardware.estimate.nearest import did_you_mean
from services.hardware.estimate.sources.processor import make_processor, parse_object, processor_names
from services.hardware.estimate.sources.safety import refuse_unsafe_files
from services.hardware.estimate.sources.source import CONFIG, Source


def read_local(path: str, model_root: Path, task: Task) -> Source:
    """Return the model in `model_root / path`.

    Raises:
        InvalidModel: there is none, it leads out of the root, or its files are not safe to read.
    """
    directory = inside(path, model_root)
    if not directory.is_dir():
        raise InvalidModel(path, f"the model root has no such directory{_near(path, model_root)}")
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    names = [file.relative_to(directory).as_posix() for file in files]
    if CONFIG not in names:
        gguf = next((name for name in names if name.endswith(".gguf")), None)
        instead = "" if gguf is None else f": name {path}/{gguf} as model.gguf"
        raise InvalidModel(path, f"it has no {CONFIG}{instead}")
    refuse_unsafe_files(path, names)
    # Only beside config.json: what lies deeper is an adapter, or another variant.
    weights = [file for file in files if file.suffix == ".safetensors" and file.parent == directory]
    processor = [directory / name for name in processor_names(names, task)]
    return Source(
        name=path,
        config=parse_object(path, CONFIG, (directory / CONFIG).read_bytes()),
        weight_files=tuple(WeightFile(path=file.name, size_bytes=file.stat().st_size) for file in weights),
        location=directory.relative_to(model_root.resolve()).as_posix(),
        processor=make_processor(
            path, (_hashed(file) for file in processor), lambda name: (directory / name).read_bytes()
        ),
    )


def inside(path: str, model_root: Path) -> Path:
    """Return a path under the model root. Raises InvalidModel where it leads out."""
    root = model_root.resolve()
    found = (root / path).resolve()
    # Resolved first: neither `..` nor a link leads out.
    if not found.is_relative_to(root) or found == root:
        raise InvalidModel(path, "it leads out of the model root: name something inside")
    return found


def _near(path: str, root: Path) -> str:
    known = [entry.name for entry in os.scandir(root) if entry.is_dir()] if root.is_dir() else []
    return did_you_mean(path, known)


def _hashed(file: Path) -> WeightFile:
    # Small beside the weights, whose size alone has to do.
    data = file.read_bytes()
    return WeightFile(path=file.name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
