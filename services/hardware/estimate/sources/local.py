"""A directory under the platform's model root."""

import os
from pathlib import Path

from services.common.errors import InvalidModel
from services.common.specs import WeightFile
from services.hardware.estimate.nearest import did_you_mean
from services.hardware.estimate.sources.safety import refuse_unsafe_files
from services.hardware.estimate.sources.source import CONFIG, PROCESSORS, Source, parse_object


def read_local(path: str, model_root: Path) -> Source:
    """Return the model in `model_root / path`.

    Raises:
        InvalidModel: there is none, it leads out of the root, or its files are not safe to read.
    """
    directory = _inside(path, model_root)
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    names = [file.relative_to(directory).as_posix() for file in files]
    if CONFIG not in names:
        raise InvalidModel(path, f"it has no {CONFIG}")
    refuse_unsafe_files(path, names)
    # Only beside config.json: what lies deeper is an adapter, or another variant.
    weights = [file for file in files if file.suffix == ".safetensors" and file.parent == directory]
    processor = next((directory / name for name in PROCESSORS if name in names), None)
    return Source(
        name=path,
        config=parse_object(path, CONFIG, (directory / CONFIG).read_bytes()),
        weight_files=tuple(WeightFile(path=file.name, size_bytes=file.stat().st_size) for file in weights),
        location=directory.relative_to(model_root.resolve()).as_posix(),
        processor_json="" if processor is None else processor.read_text(),
    )


def _inside(path: str, model_root: Path) -> Path:
    root = model_root.resolve()
    directory = (root / path).resolve()
    # Resolved first: neither `..` nor a link leads out.
    if not directory.is_relative_to(root) or directory == root:
        raise InvalidModel(path, "it leads out of the model root: name a directory inside")
    if not directory.is_dir():
        known = [entry.name for entry in os.scandir(root) if entry.is_dir()] if root.is_dir() else []
        raise InvalidModel(path, f"the model root has no such directory{did_you_mean(path, known)}")
    return directory
