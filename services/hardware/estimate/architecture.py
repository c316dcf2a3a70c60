"""A model's architecture: its configuration as transformers reads it, and the model itself without memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import Task
from services.hardware.estimate.nearest import did_you_mean

# What libraries raise at a configuration that makes no sense. None of it is a defect of ours.
CONFIG_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError),
    *(RuntimeError, StrictDataclassError, TypeError, ValueError),
)
_MAPPINGS = {
    Task.IMAGE_CLASSIFICATION: MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    Task.SFT: MODEL_FOR_CAUSAL_LM_MAPPING,
    Task.DPO: MODEL_FOR_CAUSAL_LM_MAPPING,
}
_WANTED = {
    Task.IMAGE_CLASSIFICATION: "image classifier: choose an architecture such as vit, swin or convnext",
    Task.SFT: "causal language model: choose an architecture such as llama, qwen2 or mistral",
    Task.DPO: "causal language model: choose an architecture such as llama, qwen2 or mistral",
}
# Older names that configurations still take.
_LEGACY_KEYS = frozenset({"model_type", "num_labels", "torch_dtype", "rope_theta", "rope_scaling"})


@dataclass(frozen=True)
class Architecture:
    """A configuration and the class that a task makes of it."""

    name: str
    config: PretrainedConfig
    model_class: type[PreTrainedModel]

    @property
    def has_encoder(self) -> bool:
        """Whether it is an encoder and a decoder, such as T5 and Switch."""
        return bool(getattr(self.config, "is_encoder_decoder", False))


def read_config(name: str, values: Mapping[str, Any], *, by_hand: bool) -> PretrainedConfig:
    """Return the configuration. One written `by_hand` may hold no key that its architecture does not know.

    Raises:
        InvalidModel: there is no such architecture, or a value makes no sense for it.
        InvalidSpec: a key is unknown.
    """
    model_type = str(values.get("model_type", ""))
    if model_type not in CONFIG_MAPPING:
        meant = did_you_mean(model_type, CONFIG_MAPPING.keys())
        raise InvalidModel(name, f"transformers knows no architecture {model_type!r}{meant}")
    config_class = CONFIG_MAPPING[model_type]
    # A published configuration carries keys of its own time; a typed one carries typing errors.
    if by_hand:
        _refuse_unknown_keys(config_class, values)
    try:
        config = config_class.from_dict(dict(values))
    except CONFIG_ERRORS as error:
        raise InvalidModel(name, f"its configuration makes no sense: {_brief(error)}") from None
    assert isinstance(config, PretrainedConfig)
    return config


def find_architecture(name: str, config: PretrainedConfig, task: Task) -> Architecture:
    """Return the class that the task trains. Raises InvalidModel where the architecture has none."""
    has_encoder = bool(getattr(config, "is_encoder_decoder", False))
    if has_encoder and task is Task.DPO:
        raise InvalidModel(
            name, "preferences are learned by decoder-only models; this one has an encoder: use sft"
        )
    mapping = _MAPPINGS[task]
    if has_encoder and task is Task.SFT:
        mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    found = mapping.get(type(config), None)
    if found is None:
        raise InvalidModel(name, f"transformers has {config.model_type} as no {_WANTED[task]}")
    # Where there are several, the first is the one without a teacher.
    model_class = found[0] if isinstance(found, tuple) else found
    assert model_class is not None
    # Some architectures cannot be told from their configuration without this.
    config.architectures = [model_class.__name__]
    return Architecture(name, config, model_class)


def build_empty(architecture: Architecture) -> PreTrainedModel:
    """Return the model on the meta device: shapes without memory. Raises InvalidModel."""
    try:
        with torch.device("meta"):
            model = architecture.model_class._from_config(architecture.config)
    except CONFIG_ERRORS as error:
        raise InvalidModel(architecture.name, f"it cannot be built: {_brief(error)}") from None
    assert isinstance(model, PreTrainedModel)
    return model


def _refuse_unknown_keys(config_class: type[PretrainedConfig], values: Mapping[str, Any]) -> None:
    aliases = set(getattr(config_class, "attribute_map", {}))
    known = {*config_class().to_dict(), *aliases, *_LEGACY_KEYS}
    for key, value in values.items():
        if key not in known:
            meant = did_you_mean(key, known)
            limit = f"{config_class.model_type} has no such key{meant}"
            raise InvalidSpec(f"model.config.{key}", value, limit)


def _brief(error: BaseException) -> str:
    """Return the first lines of an error; what follows is often a list of everything."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
