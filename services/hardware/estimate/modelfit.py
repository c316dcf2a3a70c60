"""What a spec asks of its model that the model cannot do."""

import json
from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from services.common.errors import InvalidSpec
from services.common.specs import Attention, TrainingSpec
from services.hardware.estimate.adapters import attach
from services.hardware.estimate.architecture import Architecture
from services.hardware.estimate.rules import language_models

_USUAL_IMAGE_SIZE = 224


def own_image_size(config: PretrainedConfig, processor_json: str = "") -> int:
    """Return the height and width in pixels that the model was made for, or the usual 224."""
    size: Any = getattr(config, "image_size", None)
    if size is None and processor_json:
        size = json.loads(processor_json).get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple):
        size = size[0] if len(set(size)) == 1 else None
    return size if isinstance(size, int) and size > 0 else _USUAL_IMAGE_SIZE


def set_image_size(architecture: Architecture, spec: TrainingSpec, *, pretrained: bool) -> None:
    """Give a model the image size that the spec asks for.

    Raises:
        InvalidSpec: the spec gives two sizes, the weights were made for another, or images have other
        channels.
    """
    config = architecture.config
    channels = getattr(config, "num_channels", 3)
    if channels != 3:
        raise InvalidSpec("model.config.num_channels", channels, "images are read as RGB: it has to be 3")
    asked = None if spec.image is None else spec.image.image_size
    if asked is None or not hasattr(config, "image_size") or own_image_size(config) == asked:
        return
    if "image_size" in (spec.model.config or {}):
        limit = f"model.config.image_size is {own_image_size(config)}: give one of the two"
        raise InvalidSpec("image.image_size", asked, limit)
    # Such a model learned a vector for each place of an image, and has none for other places.
    if pretrained and "interpolate_pos_encoding" in signature(architecture.model_class.forward).parameters:
        limit = f"the model's weights were made for {own_image_size(config)}: leave it out"
        raise InvalidSpec("image.image_size", asked, limit)
    config.image_size = asked


Rule = Callable[[TrainingSpec, Architecture, PreTrainedModel], Iterator[InvalidSpec]]


def _attention(
    spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel
) -> Iterator[InvalidSpec]:
    name, kind = architecture.config.model_type, architecture.model_class
    asked = spec.attn_implementation
    if asked is Attention.SDPA and not kind._supports_sdpa:
        yield InvalidSpec("attn_implementation", "sdpa", f"{name} has no such kernel: use eager, or auto")
    if asked is Attention.FLASH_ATTENTION_2 and not kind._supports_flash_attn:
        other = "sdpa" if kind._supports_sdpa else "eager"
        yield InvalidSpec(
            "attn_implementation", "flash_attention_2", f"{name} has no such kernel: use {other}"
        )


def _checkpointing(
    spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel
) -> Iterator[InvalidSpec]:
    asked = spec.training is not None and spec.training.gradient_checkpointing
    if asked and not model.supports_gradient_checkpointing:
        limit = (
            f"{architecture.config.model_type} cannot recompute its activations: lower the batch size instead"
        )
        yield InvalidSpec("training.gradient_checkpointing", True, limit)


def _image_size(
    spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel
) -> Iterator[InvalidSpec]:
    size = None if spec.image is None else spec.image.image_size
    # What does not fill a patch would be cut off without a word.
    patch: Any = getattr(architecture.config, "patch_size", None)
    patch = patch[0] if isinstance(patch, list | tuple) and patch else patch
    if size is not None and isinstance(patch, int) and patch > 0 and size % patch:
        limit = f"the model cuts images into patches of {patch} pixels: use {_multiple(size, patch)}"
        yield InvalidSpec("image.image_size", size, limit)


def _multiple(size: int, patch: int) -> str:
    below, above = size // patch * patch, (size // patch + 1) * patch
    return f"{below} or {above}" if below else str(above)


_RULES: tuple[Rule, ...] = (
    _attention,
    _checkpointing,
    _image_size,
    language_models.encoder,
    language_models.length,
    language_models.packing,
    language_models.head,
    language_models.experts,
    language_models.state_space,
    language_models.liger,
)


def refuse_misfit(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> None:
    """Pass a filled spec that its model can follow. Raises InvalidSpec for the first thing that it cannot."""
    for rule in _RULES:
        for problem in rule(spec, architecture, model):
            raise problem
    if spec.lora is not None:
        attach(model, spec.lora)
