"""What a training step keeps for its backward pass, in numbers of elements.

Images go through the model itself on the meta device, where tensors have shapes and no memory: every tensor
that the backward pass asks for is counted once. Text models route and mask by values, which such tensors have
not, so theirs is a formula over the shapes of a transformer's layer.
"""

from dataclasses import dataclass
from typing import Any

import torch

from services.common.errors import InvalidSpec
from services.common.specs import Attention, Task, TrainingSpec
from services.hardware.estimate.architecture import CONFIG_ERRORS, Architecture, build_empty

# Of a layer's input, kept by norms, projections, rotations and residuals; and of its inner width.
_PER_HIDDEN = 14
_PER_INTERMEDIATE = 6
# Copies of a token that are sorted by expert, there and back.
_PER_ROUTED = 4
# Scores, their softmax and its dropout.
_PER_SCORE = 3
# State-space layers expand each channel by their state.
_MAMBA_FACTOR = 16


@dataclass(frozen=True)
class Activations:
    """Elements that are alive at the end of the forward pass of one micro-batch."""

    kept: int
    logits: int
    recomputed: int = 0
    """What is computed anew for the backward pass instead of being kept, over all layers."""


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


def of_text(architecture: Architecture, spec: TrainingSpec) -> Activations:
    """Count for a batch of sequences of the full length."""
    text: Any = architecture.config.get_text_config()
    length = _padded_length(text, spec)
    sequences = batch_size(spec) * (2 if spec.task is Task.DPO else 1)
    tokens = sequences * length
    hidden = _first(text, "hidden_size", "d_model", default=4096)
    layers = _first(text, "num_hidden_layers", "num_layers", default=32)
    if architecture.has_encoder:
        layers += _first(text, "num_decoder_layers", "decoder_layers", default=layers)
    layer = tokens * (_PER_HIDDEN * hidden + _PER_INTERMEDIATE * _inner(text, hidden))
    layer += tokens * _PER_ROUTED * hidden * _experts_per_token(text)
    if "mamba" in architecture.config.model_type:
        layer *= _MAMBA_FACTOR
    layer += _scores(architecture, spec, sequences, length)
    recomputed = spec.training is not None and bool(spec.training.gradient_checkpointing)
    # Recomputed layers keep their input only, and one of them at a time is whole.
    kept = layers * tokens * hidden + layer if recomputed else layers * layer
    anew = layers * layer - kept
    if spec.text is not None and spec.text.packing and not architecture.has_encoder:
        # A mask that tells the sequences of one row apart, as yes or no and as a number.
        kept += 2 * tokens**2
    logits = tokens * _first(text, "vocab_size", default=0)
    return Activations(kept=kept, logits=logits, recomputed=max(0, anew))


def _padded_length(text: Any, spec: TrainingSpec) -> int:
    length = 1024 if spec.text is None else spec.text.max_length or 1024
    # Mamba-2 fills its last chunk, which the only one may be.
    chunk = int(getattr(text, "chunk_size", 0) or 0) if "mamba" in text.model_type else 0
    return -(-length // chunk) * chunk if chunk else length


def _inner(text: Any, hidden: int) -> int:
    """Return the inner width that a token passes through, over all the experts it goes to."""
    dense = _first(text, "intermediate_size", "d_ff", "ffn_dim", "n_inner", default=4 * hidden)
    routed = _experts_per_token(text) * _first(text, "moe_intermediate_size", default=dense)
    return max(dense, routed + _first(text, "shared_expert_intermediate_size", default=0))


def _experts_per_token(text: Any) -> int:
    return _first(text, "num_experts_per_tok", "num_experts_per_token", "moe_top_k", default=0)


def _scores(architecture: Architecture, spec: TrainingSpec, sequences: int, length: int) -> int:
    """Return what attention keeps of one layer where it writes its scores down."""
    has_encoder = architecture.has_encoder
    # A bias on scores that is trained, as T5's is, is what the kernels that write nothing down cannot do.
    written = spec.attn_implementation is Attention.EAGER or has_encoder
    if not written and architecture.model_class._supports_sdpa:
        return 0
    heads = _first(architecture.config.get_text_config(), "num_attention_heads", "num_heads", default=1)
    rows = (1, sequences * length) if spec.text is not None and spec.text.packing else (sequences, length)
    each = _PER_SCORE * rows[0] * heads * rows[1] ** 2
    # A decoder looks at itself and at the encoder.
    return each * (2 if has_encoder else 1)


def _first(config: Any, *names: str, default: int) -> int:
    """Return the first number that a configuration has under one of the names."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), default)


def batch_size(spec: TrainingSpec) -> int:
    """Return the examples of one forward pass: the larger of training's and evaluation's."""
    training = 8 if spec.training is None else spec.training.per_device_train_batch_size or 8
    evaluation = 0 if spec.evaluation is None else spec.evaluation.per_device_eval_batch_size or 0
    return max(training, evaluation)


def image_size(spec: TrainingSpec) -> int:
    """Return a filled spec's image size in pixels."""
    return 224 if spec.image is None else spec.image.image_size or 224
