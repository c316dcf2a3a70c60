"""Model directories without weights that would take memory."""

import json
from pathlib import Path
from typing import Any

TINY_VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
TINY_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def write_model(directory: Path, config: dict[str, Any] | None = None, **files: bytes) -> Path:
    """Write a model's directory; `model_safetensors=b"…"` is the file model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(TINY_VIT if config is None else config))
    for name, data in (files or {"model_safetensors": b"weights"}).items():
        (directory / name.replace("_", ".")).write_bytes(data)
    return directory
