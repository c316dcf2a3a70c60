"""The model of an image classifier: architecture, attention, number format, and weights it takes over."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import Attention, Precision, TrainingSpec
from services.trainer.recipes.attention import choose_attention
from services.trainer.recipes.fields import need
from services.trainer.recipes.recipe import Hardware, Weights


@dataclass(frozen=True)
class Built:
    """A model, and what is worth knowing about how it was made."""

    model: PreTrainedModel
    notices: tuple[str, ...]


def build_model(
    spec: TrainingSpec,
    config: PreTrainedConfig,
    weights: Weights | None,
    precision: Precision,
    hardware: Hardware,
) -> Built:
    """Return the classifier of `config`, with the weights given or random ones, which torch's RNG decides.

    Raises:
        InvalidModel: transformers has no such image classifier, or the weights are not its own.
        InvalidSpec: the spec asks for what architecture or hardware lacks.
    """
    model_class = image_classifier_class(config)
    _settle_config(spec, config, model_class, weights)
    attention = choose_attention(spec.attn_implementation or Attention.AUTO, model_class, precision, hardware)
    options: dict[str, Any] = {
        "attn_implementation": attention.implementation,
        "dtype": storage_dtype(spec, precision),
    }
    if weights is None:
        return Built(model_class._from_config(config, **options), (attention.reason,))
    model, told = _with_weights(model_class, config, weights, options)
    return Built(model, (attention.reason, *told))


def image_classifier_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return transformers' image classifier of an architecture.

    Raises:
        InvalidModel: there is none.
    """
    try:
        found: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    except KeyError:
        detail = "transformers has no image classifier of this architecture; `vit` is one that it has"
        raise InvalidModel(model=config.model_type, detail=detail) from None
    candidates: list[type[PreTrainedModel]] = list(found) if isinstance(found, list | tuple) else [found]
    named = [candidate for candidate in candidates if candidate.__name__ in (config.architectures or ())]
    return (named or candidates)[0]


def head_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the modules on top of the backbone: what classifies."""
    children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    body = model.base_model_prefix
    return tuple(name for name in children if name != body) if body in children else ("classifier",)


def label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return what the classifier's outputs mean, in their order."""
    names: dict[Any, Any] = config.id2label or {}
    return tuple(str(names[index]) for index in sorted(names))


def storage_dtype(spec: TrainingSpec, precision: Precision) -> torch.dtype:
    """Return how weights are stored: trained ones in fp32, under autocast; frozen ones as they compute."""
    if spec.lora is None:
        return torch.float32
    return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(precision, torch.float32)


def some_of(names: list[str]) -> str:
    """Return the first few of many names, as a phrase."""
    shown = ", ".join(names[:4]) or "nothing"
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _settle_config(
    spec: TrainingSpec, config: PreTrainedConfig, model_class: type[PreTrainedModel], weights: Weights | None
) -> None:
    # Unless told, transformers takes one label for a regression, and trains on class indices without a word.
    config.problem_type = "single_label_classification"
    channels = getattr(config, "num_channels", 3)
    if channels != 3:
        raise InvalidSpec("model.config.num_channels", channels, "images are read as RGB: 3 channels")
    size = need(need(spec.image, "image").image_size, "image.image_size")
    if getattr(config, "image_size", size) in (size, [size, size], (size, size)):
        return
    # Who takes positions of another size only on request would refuse its own artifact's pictures later.
    fixed = "interpolate_pos_encoding" in signature(model_class.forward).parameters
    if fixed and weights is not None:
        limit = f"this model's weights were made for {config.image_size} and keep that size"
        raise InvalidSpec("image.image_size", size, limit)
    config.image_size = size


def _with_weights(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: Weights,
    options: Mapping[str, Any],
) -> tuple[PreTrainedModel, list[str]]:
    labels = label_names(config)
    same_labels = labels == weights.labels
    # A head that means other labels is left out also where it has the size of the new one.
    heads = set() if same_labels else _outside_body(weights.tensors, model_class)
    # Without a path it reads nothing, and it knows the names under which older versions wrote their files.
    loaded: Any = model_class.from_pretrained(
        None,
        config=config,
        state_dict={name: tensor for name, tensor in weights.tensors.items() if name not in heads},
        output_loading_info=True,
        **options,
    )
    model, report = loaded
    head = tuple(f"{name}." for name in head_names(model))
    missing = sorted(report["missing_keys"])
    left_over = sorted(set(report["unexpected_keys"]) | (heads - set(model.state_dict())))
    wrong = [name for name in missing if not name.startswith(head) or (same_labels and weights.complete)]
    if wrong or (left_over and weights.complete):
        detail = f"these weights are not its own: missing {some_of(wrong)}, left over {some_of(left_over)}"
        raise InvalidModel(model=config.model_type, detail=detail)
    told = [f"the weights hold more than is used: {some_of(left_over)}"] if left_over else []
    if missing:
        return model, [*told, f"the classifier gets a new head of {len(labels)} labels"]
    return model, [*told, "the classifier's head is taken over: its labels are the same"]


def _outside_body(tensors: Mapping[str, torch.Tensor], model_class: type[PreTrainedModel]) -> set[str]:
    """Return the names of what is not the backbone; a file of a bare backbone names it without a prefix."""
    body = f"{model_class.base_model_prefix}."
    if any(name.startswith(body) for name in tensors):
        return {name for name in tensors if not name.startswith(body)}
    return {name for name in tensors if name.startswith("classifier.")}
