"""What a training step keeps for its backward pass, in numbers of elements.

Images go through the model itself on the meta device, where tensors have shapes and no memory: every tensor
that the backward pass asks for is counted once. Text models route and mask by values, which such tensors have
not, so theirs is a formula over the shapes of a transformer's layer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from services.common.errors import InvalidSpec
from services.common.specs import Attention, Task, TrainingSpec
from services.hardware.estimate.architecture import CONFIG_ERRORS, Architecture, build_empty

# Of a layer's input, kept by norms, projections, rotations and residuals; and of its inner width.
_PER_HIDDEN = 14
_PER_INTERMEDIATE = 6
# Scores, their softmax and its dropout.
_PER_SCORE = 3
# State-space layers expand each channel by their state.
_MAMBA_FACTOR = 16


@dataclass(frozen=True)
class Activations:
    """Elements that are alive at the end of the forward pass of one micro-batch."""

    kept: int
    logits: int


def of_images(architecture: Architecture, spec: TrainingSpec) -> Activations:
    """Count for a batch of images. Raises InvalidSpec where the model does not take images of that size."""
    batch, size = batch_size(spec), image_size(spec)
    channels = getattr(architecture.config, "num_channels", 3)
    model = build_empty(architecture).train()
    # By storage, for views of one tensor take its memory once; kept alive, or a new one could get the same
    # id.
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # One image is enough: everything that is kept grows with the batch.
            logits = model(pixel_values=torch.empty(1, channels, size, size, device="meta")).logits
    except CONFIG_ERRORS as error:
        detail = f"the model does not take images of that size: {' '.join(str(error).split())[:200]}"
        raise InvalidSpec("image.image_size", size, detail) from None
    # The backward pass asks for weights too, which are counted elsewhere.
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    elements = sum(tensor.numel() for storage, tensor in kept.items() if storage not in weights)
    return Activations(kept=batch * elements, logits=batch * int(logits.numel()))


def of_text(config: PretrainedConfig, spec: TrainingSpec) -> Activations:
    """Count for a batch of sequences of the full length."""
    text: Any = config.get_text_config()
    length = 1024 if spec.text is None else spec.text.max_length or 1024
    sequences = batch_size(spec) * (2 if spec.task is Task.DPO else 1)
    tokens = sequences * length
    hidden = int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0) or 4096)
    layers = int(getattr(text, "num_hidden_layers", 0) or getattr(text, "num_layers", 0) or 32)
    inner = int(getattr(text, "intermediate_size", 0) or getattr(text, "d_ff", 0) or 4 * hidden)
    layer = tokens * (_PER_HIDDEN * hidden + _PER_INTERMEDIATE * inner)
    if "mamba" in config.model_type:
        layer *= _MAMBA_FACTOR
    if spec.attn_implementation is Attention.EAGER:
        layer += _PER_SCORE * sequences * int(getattr(text, "num_attention_heads", 1)) * length * length
    recomputed = spec.training is not None and bool(spec.training.gradient_checkpointing)
    # Recomputed layers keep their input only, and one of them at a time is whole.
    kept = layers * tokens * hidden + layer if recomputed else layers * layer
    return Activations(kept=kept, logits=tokens * int(getattr(text, "vocab_size", 0)))


def batch_size(spec: TrainingSpec) -> int:
    """Return the examples of one forward pass: the larger of training's and evaluation's."""
    training = 8 if spec.training is None else spec.training.per_device_train_batch_size or 8
    evaluation = 0 if spec.evaluation is None else spec.evaluation.per_device_eval_batch_size or 0
    return max(training, evaluation)


def image_size(spec: TrainingSpec) -> int:
    """Return a filled spec's image size in pixels."""
    return 224 if spec.image is None else spec.image.image_size or 224
