"""The numbers of elements that the formulas start from, read off a model without memory."""

import json
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from services.common.specs import ResolvedSpec, Task
from services.hardware.estimate.activations import of_images, of_text
from services.hardware.estimate.adapters import attach
from services.hardware.estimate.architecture import build_empty, find_architecture, read_config


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Numbers of elements of a job."""

    parameters: int
    """The model's own."""
    adapters: int = 0
    """Added by an adapter."""
    trained: int
    linear: int
    """Parameters of linear layers but the head's: what a quantiser packs, beside the experts."""
    experts: int
    """Parameters of stacked experts."""
    expert_layer: int
    """Of the experts of one layer, the largest."""
    head: int
    """Parameters of the matrix that makes logits. 0: there is none."""
    activations: int
    """What one micro-batch keeps for its backward pass."""
    recomputed: int
    """What one micro-batch computes anew instead of keeping it."""
    logits: int
    """The outputs of one micro-batch."""
    vocabulary: int
    """Outputs for one token. 0: it is no language model."""
    has_encoder: bool = False


def measure(resolved: ResolvedSpec) -> Shapes:
    """Return the shapes of a resolved spec's model.

    Raises:
        InvalidModel, InvalidSpec: the spec was not made by `resolve`.
    """
    spec, name = resolved.spec, resolved.model.model_type
    config = read_config(name, json.loads(resolved.model.config_json), by_hand=False)
    architecture = find_architecture(name, config, spec.task)
    model = build_empty(architecture)
    images = spec.task is Task.IMAGE_CLASSIFICATION
    activations = of_images(architecture, spec) if images else of_text(architecture, spec)
    # All of this is counted before the adapter, whose small matrices stay as they are.
    parameters, experts = model.num_parameters(), _expert_layers(model)
    linear, head = _linear_parameters(model), _head_parameters(model)
    every = trained = parameters
    if spec.lora is not None:
        adapted = attach(model, spec.lora)
        every = sum(parameter.numel() for parameter in adapted.parameters())
        trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    return Shapes(
        parameters=parameters,
        adapters=every - parameters,
        trained=trained,
        linear=linear,
        experts=sum(experts),
        expert_layer=max(experts, default=0),
        head=head,
        activations=activations.kept,
        recomputed=activations.recomputed,
        logits=activations.logits,
        has_encoder=architecture.has_encoder,
        vocabulary=int(getattr(config.get_text_config(), "vocab_size", 0) or 0),
    )


def _linear_parameters(model: nn.Module) -> int:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return sum(
        m.weight.numel() for name, m in layers if name.rpartition(".")[2] not in ("lm_head", "classifier")
    )


def _expert_layers(model: nn.Module) -> list[int]:
    """Return the parameters of each layer's experts, where they are stacked in tensors."""
    return [
        sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.ndim == 3)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "experts"
    ]


def _head_parameters(model: PreTrainedModel) -> int:
    head = model.get_output_embeddings()
    return head.weight.numel() if isinstance(head, nn.Linear) else 0
