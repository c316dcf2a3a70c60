"""Which implementation of attention a model gets, and why, in words."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from services.common.errors import InvalidSpec
from services.common.specs import Attention, DeviceKind, Precision
from services.trainer.recipes.recipe import Hardware

_FIELD = "attn_implementation"


@dataclass(frozen=True)
class AttentionChoice:
    """An implementation by transformers' name, and the reason as a sentence. None: the model has no attention
    that could be chosen."""

    implementation: str | None
    reason: str


def choose_attention(
    wanted: Attention, model_class: type[PreTrainedModel], precision: Precision, hardware: Hardware
) -> AttentionChoice:
    """Return the implementation for models of `model_class`.

    Raises:
        InvalidSpec: what was asked for does not work here.
    """
    obstacle = _flash_obstacle(model_class, precision, hardware)
    if wanted is Attention.FLASH_ATTENTION_2 and obstacle:
        raise InvalidSpec(_FIELD, wanted, f"{obstacle}: use sdpa or auto")
    if wanted is Attention.FLASH_ATTENTION_2 or (wanted is Attention.AUTO and not obstacle):
        return AttentionChoice("flash_attention_2", "attention: FlashAttention-2, on a GPU that has it")
    if wanted is Attention.EAGER:
        return AttentionChoice("eager", "attention: the architecture's own, as asked for")
    if model_class._supports_sdpa:
        why = "as asked for" if wanted is Attention.SDPA else f"since {obstacle}"
        return AttentionChoice("sdpa", f"attention: PyTorch's scaled_dot_product_attention, {why}")
    if wanted is Attention.SDPA:
        raise InvalidSpec(_FIELD, wanted, f"{model_class.__name__} does not have it: use eager or auto")
    return AttentionChoice(None, f"attention: {model_class.__name__}'s own, the only one it has")


def _flash_obstacle(model_class: type[PreTrainedModel], precision: Precision, hardware: Hardware) -> str:
    """Say why FlashAttention-2 cannot be used. Empty: it can."""
    if hardware.device is not DeviceKind.CUDA:
        return "FlashAttention-2 never runs on a CPU"
    if not model_class._supports_flash_attn:
        return f"{model_class.__name__} has no FlashAttention-2"
    capability = hardware.compute_capability or (0, 0)
    if not (8, 0) <= capability < (10, 0):
        version = ".".join(map(str, capability))
        return f"FlashAttention-2 needs a GPU of compute capability 8.0 to 9.x and this one has {version}"
    if not hardware.flash_attention:
        return "the package flash-attn is not installed"
    if precision is Precision.FP32:
        return "FlashAttention-2 computes in bf16 or fp16 only"
    return ""
