"""An artifact in the forms that others take it in: the merged model, the adapter alone, or one GGUF file."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from weighbridge.common.v1.artifacts_pb2 import FileEntry, FileTree
from weighbridge.exceptions import ConversionFailed, NoConverter, NotExportable

CONVERTER = "convert_hf_to_gguf.py"
CONVERTER_VARIABLE = "WEIGHBRIDGE_GGUF_CONVERTER"
_ADAPTER = "adapter/"
# What a text goes through on its way into a model: an adapter's inputs are made with its own job's.
_TOKENIZER = (
    *("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "spiece", "sentencepiece"),
    *("chat_template", "additional_chat_templates/", "preprocessor_config", "processor_config"),
)
_TAIL_LENGTH = 1500


class Form(StrEnum):
    """What is exported."""

    MERGED = "merged"
    """The whole model in safetensors, with its tokenizer: adapters are merged into it."""
    ADAPTER = "adapter"
    """The adapter alone, with the tokenizer."""
    GGUF = "gguf"
    """One file for llama.cpp and what is built on it."""


def chosen(job: str, artifact: FileTree, form: Form) -> Mapping[str, FileEntry]:
    """Return the files of an artifact that make up a form, by their paths there.

    Raises:
        NotExportable: the artifact has no adapter, or no whole model.
    """
    entries = {entry.path: entry for entry in artifact.files}
    if form is not Form.ADAPTER:
        whole = {path: entry for path, entry in entries.items() if not path.startswith(_ADAPTER)}
        if "config.json" not in whole or not any(path.endswith(".safetensors") for path in whole):
            raise NotExportable(f"job {job} made no whole model: `jobs download` fetches what it made")
        return whole
    adapter = {path.removeprefix(_ADAPTER): path for path in entries if path.startswith(_ADAPTER)}
    if not adapter:
        raise NotExportable(f"job {job} trained the whole model, no adapter: export that, without --adapter")
    beside = {path: path for path in entries if path.startswith(_TOKENIZER)}
    return {target: entries[path] for target, path in {**beside, **adapter}.items()}


def find_converter(named: str | Path | None = None) -> Sequence[str]:
    """Return how llama.cpp's converter is run: as `named`, by WEIGHBRIDGE_GGUF_CONVERTER, or from the PATH.

    Raises:
        NoConverter: it is in none of these places.
    """
    given = str(named or os.environ.get(CONVERTER_VARIABLE) or "")
    found = shutil.which(given or CONVERTER) or (given if Path(given).is_file() else "")
    if not found:
        raise NoConverter(
            f"{given or CONVERTER} is not here: the converter comes with llama.cpp. Install it (`git clone "
            "https://github.com/ggml-org/llama.cpp && pip install -r llama.cpp/requirements/"
            f"requirements-convert_hf_to_gguf.txt`); name it with --converter or {CONVERTER_VARIABLE}"
        )
    # One that is not executable says nothing of its interpreter.
    return [found] if os.access(found, os.X_OK) else [sys.executable, found]


def convert(command: Sequence[str], model: Path, target: Path, outtype: str) -> Path:
    """Make a GGUF file of a model's directory with a converter and return it: there whole or not at all.

    Raises:
        ConversionFailed: the converter does not take the model, or died.
    """
    part = target.with_name(f".{target.name}.part")
    arguments = [str(model), "--outfile", str(part), "--outtype", outtype]
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode != 0 or not part.exists():
        part.unlink(missing_ok=True)
        said = done.stdout.strip()[-_TAIL_LENGTH:]
        raise ConversionFailed(f"{command[-1]} ended with status {done.returncode} and no file:\n{said}")
    part.replace(target)
    return target
