"""A GGUF file under the platform's model root: architecture, tokenizer and weights in one file."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.integrations.gguf.reader import read_gguf_metadata

from services.common.errors import InvalidModel
from services.common.specs import Task, WeightFile
from services.hardware.estimate.nearest import did_you_mean
from services.hardware.estimate.sources.local import inside
from services.hardware.estimate.sources.processor import Processor
from services.hardware.estimate.sources.source import Source

# What the readers raise at bytes that are no GGUF file, or one that they do not know. Theirs, not ours.
_READ_ERRORS = (
    *(AttributeError, ImportError, LookupError, OSError, OverflowError),
    *(TypeError, UnicodeDecodeError, ValueError, struct.error),
)


def read_gguf(path: str, model_root: Path, task: Task) -> Source:
    """Return the model in the file `model_root / path`; of its weights, only the size is looked at.

    Raises:
        InvalidModel: there is no such file, it leads out of the root, is broken, is one of several parts, or
        transformers cannot read its architecture.
    """
    if task is Task.IMAGE_CLASSIFICATION:
        raise InvalidModel(path, "a GGUF file holds a language model: choose the task sft or dpo")
    file = inside(path, model_root)
    if not file.is_file():
        known = [found.relative_to(model_root).as_posix() for found in model_root.rglob("*.gguf")]
        raise InvalidModel(path, f"the model root has no such file{did_you_mean(path, known)}")
    metadata = _metadata(path, file)
    parts = metadata.get("split.count") or 1
    if parts > 1:
        raise InvalidModel(path, f"it is one of {parts} parts: join them with llama-gguf-split --merge")
    weights = WeightFile(path=file.name, size_bytes=file.stat().st_size)
    return Source(
        name=path,
        config=_config(path, file, metadata),
        weight_files=(weights,),
        location=file.relative_to(model_root.resolve()).as_posix(),
        processor=_processor(weights, metadata),
    )


def _metadata(path: str, file: Path) -> Mapping[str, Any]:
    try:
        metadata, _ = read_gguf_metadata(str(file))
    except _READ_ERRORS as error:
        raise InvalidModel(path, f"it is no GGUF file: {_brief(error)}") from None
    return metadata


def _config(path: str, file: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # Without a class: one that knows its architecture would read it as that one, whatever it is.
        config, _ = PreTrainedConfig.get_config_dict(str(file.parent), gguf_file=file.name)
    except _READ_ERRORS as error:
        name = metadata.get("general.architecture")
        detail = f"transformers cannot read a GGUF file of the architecture {name!r} ({_brief(error)})"
        raise InvalidModel(path, f"{detail}: use the original weights, as model.hub or model.path") from None
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _processor(file: WeightFile, metadata: Mapping[str, Any]) -> Processor:
    # The reader leaves arrays of words as their number.
    tokens, template = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.chat_template")
    return Processor(
        files=(file,) if isinstance(tokens, int) else (),
        chat_template=template if isinstance(template, str) else "",
        token_count=tokens if isinstance(tokens, int) else 0,
    )


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
