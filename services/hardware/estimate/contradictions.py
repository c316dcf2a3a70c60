"""Options that contradict each other, whatever the model and the data are.

Each rule yields what is wrong: the field, its value, and what it may be instead. Libraries accept most of
these without a word and train something else than what was meant.
"""

from collections.abc import Callable, Iterator

from services.common.errors import InvalidSpec
from services.common.specs import (
    Attention,
    DeviceKind,
    EvaluationOptions,
    IntervalStrategy,
    Precision,
    QuantizationMethod,
    Reporter,
    Task,
    TrainingSpec,
)
from services.hardware.estimate.nearest import did_you_mean

_METRICS = {
    Task.IMAGE_CLASSIFICATION: ("accuracy", "macro_f1", "loss"),
    Task.SFT: ("loss",),
    Task.DPO: ("loss",),
}
_TEXT_TASKS = (Task.SFT, Task.DPO)

Rule = Callable[[TrainingSpec], Iterator[InvalidSpec]]


def refuse_contradictions(spec: TrainingSpec) -> None:
    """Pass a spec, as it was written, whose options go together. Raises InvalidSpec."""
    for rule in _RULES:
        for problem in rule(spec):
            raise problem


def _task_options(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    if spec.image is not None and spec.task is not Task.IMAGE_CLASSIFICATION:
        yield InvalidSpec("image", "set", f"the task is {spec.task}: leave it out, or use text")
    if spec.text is not None and spec.task not in _TEXT_TASKS:
        yield InvalidSpec("text", "set", f"the task is {spec.task}: leave it out, or use image")
    if spec.preference is not None and spec.task is not Task.DPO:
        yield InvalidSpec(
            "preference", "set", f"the task is {spec.task}: leave it out, or set the task to dpo"
        )


def _quantization(spec: TrainingSpec) -> Iterator[InvalidSpec]:
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
        yield InvalidSpec("lora.use_dora", True, "DoRA fails on int8 weights: use nf4, or plain LoRA")
    if method is QuantizationMethod.INT8 and spec.quantization.bnb_4bit_use_double_quant:
        limit = "int8 has no second quantisation: leave it out, or use nf4"
        yield InvalidSpec("quantization.bnb_4bit_use_double_quant", True, limit)


def _adapter(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    lora = spec.lora
    if lora is None or not lora.target_parameters:
        return
    if lora.use_dora:
        yield InvalidSpec("lora.use_dora", True, "DoRA does not reach target_parameters: use plain LoRA")
    if lora.lora_dropout:
        limit = "there is no dropout on target_parameters: set it to 0"
        yield InvalidSpec("lora.lora_dropout", lora.lora_dropout, limit)


def _device(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    flash = spec.attn_implementation is Attention.FLASH_ATTENTION_2
    if flash and spec.precision is Precision.FP32:
        yield InvalidSpec("precision", "fp32", "FlashAttention-2 computes in bf16 or fp16 only: use auto")
    on_cpu = spec.placement is not None and spec.placement.device is DeviceKind.CPU
    if on_cpu and spec.precision is Precision.FP16:
        yield InvalidSpec("precision", "fp16", "a CPU trains in fp32 or bf16")
    if on_cpu and spec.placement is not None and (spec.placement.device_count or 1) > 1:
        limit = "a node has one host memory: set it to 1, or use cuda"
        yield InvalidSpec("placement.device_count", spec.placement.device_count, limit)


def _evaluation(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    evaluation = spec.evaluation
    if evaluation is None:
        return
    metrics = _METRICS[spec.task]
    if evaluation.metric_for_best_model and evaluation.metric_for_best_model not in metrics:
        name = evaluation.metric_for_best_model
        limit = f"{spec.task} measures {' and '.join(metrics)}{did_you_mean(name, metrics)}"
        yield InvalidSpec("evaluation.metric_for_best_model", name, limit)
    never = evaluation.eval_strategy is IntervalStrategy.NO or evaluation.validation_split == 0
    if never:
        yield from _without_evaluation(evaluation)
    elif evaluation.load_best_model_at_end:
        yield from _best_model(spec, evaluation)


def _without_evaluation(evaluation: EvaluationOptions) -> Iterator[InvalidSpec]:
    why = "nothing is ever evaluated: set validation_split and eval_strategy, or leave it out"
    if evaluation.load_best_model_at_end:
        yield InvalidSpec("evaluation.load_best_model_at_end", True, why)
    if evaluation.early_stopping_patience:
        value = evaluation.early_stopping_patience
        yield InvalidSpec("evaluation.early_stopping_patience", value, why)
    if evaluation.validation_split == 0 and evaluation.eval_strategy not in (None, IntervalStrategy.NO):
        limit = "nothing is held out: set validation_split above 0"
        yield InvalidSpec("evaluation.eval_strategy", evaluation.eval_strategy, limit)


def _best_model(spec: TrainingSpec, evaluation: EvaluationOptions) -> Iterator[InvalidSpec]:
    """A best model can be kept only of what was both evaluated and saved."""
    saved = None if spec.checkpointing is None else spec.checkpointing.save_strategy
    evaluated = evaluation.eval_strategy or IntervalStrategy.EPOCH
    if (saved or IntervalStrategy.EPOCH) is not evaluated:
        limit = f"the best model is kept, so it has to be saved when it is evaluated: {evaluated}"
        yield InvalidSpec("checkpointing.save_strategy", saved or IntervalStrategy.EPOCH, limit)
    elif spec.checkpointing is not None and spec.checkpointing.save_steps and evaluation.eval_steps:
        steps = spec.checkpointing.save_steps
        if steps % evaluation.eval_steps:
            limit = (
                f"the best model is kept, so it has to be a multiple of eval_steps, {evaluation.eval_steps}"
            )
            yield InvalidSpec("checkpointing.save_steps", steps, limit)


def _preference(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    preference = spec.preference
    if preference is not None and preference.loss_weights:
        kinds, weights = len(preference.loss_type or ("sigmoid",)), len(preference.loss_weights)
        if kinds != weights:
            yield InvalidSpec(
                "preference.loss_weights", f"{weights} weights", f"there are {kinds} loss types"
            )
    if preference is not None and "exo_pair" in preference.loss_type and not preference.label_smoothing:
        limit = "exo_pair needs it above 0, such as 0.1"
        yield InvalidSpec("preference.label_smoothing", preference.label_smoothing or 0, limit)
    smoothing = None if spec.training is None else spec.training.label_smoothing_factor
    if smoothing and spec.task is Task.DPO:
        limit = "dpo smooths by preference.label_smoothing: set that instead"
        yield InvalidSpec("training.label_smoothing_factor", smoothing, limit)


def _reporting(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    if Reporter.NONE in spec.report_to and len(spec.report_to) > 1:
        yield InvalidSpec("report_to", ", ".join(spec.report_to), "none goes with nothing else")
    names = [secret.env for secret in spec.secrets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        yield InvalidSpec("secrets", twice, "one variable holds one secret: name it once")


_RULES: tuple[Rule, ...] = (
    _task_options,
    _quantization,
    _adapter,
    _device,
    _evaluation,
    _preference,
    _reporting,
)
