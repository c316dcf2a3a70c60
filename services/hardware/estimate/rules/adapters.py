"""What an adapter and frozen weights cannot be together."""

from collections.abc import Iterator

from services.common.errors import InvalidSpec
from services.common.specs import QuantizationMethod, Task, TrainingSpec


def quantization(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """Weights in few bits stay as they are: something else has to be trained."""
    if spec.quantization is None:
        return
    method = spec.quantization.method
    if spec.task is Task.IMAGE_CLASSIFICATION:
        limit = "this version quantises no image classifiers: leave it out"
        yield InvalidSpec("quantization", method, limit)
    if spec.lora is None:
        limit = "quantised weights cannot be trained themselves: add lora, or leave quantization out"
        yield InvalidSpec("quantization", method, limit)
    elif method is QuantizationMethod.INT8 and spec.lora.use_dora:
        # It takes one step and fails at the second.
        yield InvalidSpec("lora.use_dora", True, "DoRA fails on int8 weights: use nf4, or plain LoRA")
    if method is QuantizationMethod.INT8 and spec.quantization.bnb_4bit_use_double_quant:
        limit = "int8 has no second quantisation: leave it out, or use nf4"
        yield InvalidSpec("quantization.bnb_4bit_use_double_quant", True, limit)


def experts(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """An adapter on a bare parameter is plain LoRA without dropout."""
    lora = spec.lora
    if lora is None or not lora.target_parameters:
        return
    if lora.use_dora:
        limit = "DoRA does not reach target_parameters: use plain LoRA, or only target_modules"
        yield InvalidSpec("lora.use_dora", True, limit)
    if lora.lora_dropout:
        limit = "there is no dropout on target_parameters: set it to 0, or use only target_modules"
        yield InvalidSpec("lora.lora_dropout", lora.lora_dropout, limit)


def head(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """The loss reads the head's weights themselves, so an adapter on it would never be trained."""
    if spec.lora is None or spec.task is Task.IMAGE_CLASSIFICATION:
        return
    if any(name.rpartition(".")[2] == "lm_head" for name in spec.lora.target_modules):
        limit = "the head gets no adapter: name it in lora.modules_to_save to train it whole"
        yield InvalidSpec("lora.target_modules", "lm_head", limit)
