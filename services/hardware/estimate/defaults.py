"""Every default of a spec, as the contract documents it.

What depends on the device (the attention kernel, the number format) stays `auto` unless the spec names the
device.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from services.common.specs import (
    Attention,
    Augmentation,
    CheckpointOptions,
    DatasetSummary,
    DeviceKind,
    EvaluationOptions,
    ImageOptions,
    IntervalStrategy,
    LoraOptions,
    Optimizer,
    PlacementOptions,
    Precision,
    PreferenceOptions,
    QuantizationMethod,
    QuantizationOptions,
    Reporter,
    RowShape,
    SchedulerType,
    SchedulingOptions,
    ShardingStrategy,
    Task,
    TextOptions,
    TrainingOptions,
    TrainingSpec,
)
from services.hardware.estimate.rules.rows import text_column

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What defaults depend on of the model."""

    image_size: int = 224
    labels: tuple[str, ...] = ()
    head_modules: tuple[str, ...] = ()
    supports_sdpa: bool = True
    supports_checkpointing: bool = True
    positions: int | None = None
    """Tokens that it has positions for. None: as many as there are."""
    has_encoder: bool = False


def fill(spec: TrainingSpec, facts: ModelFacts, dataset: DatasetSummary) -> TrainingSpec:
    """Return the spec with nothing left open that has a default."""
    images = spec.task is Task.IMAGE_CLASSIFICATION
    placement = _placement(spec.placement)
    on_cpu = placement.device is DeviceKind.CPU
    return replace(
        spec,
        model=replace(spec.model, revision=spec.model.revision or ("main" if spec.model.hub else "")),
        image=_image(spec.image, facts) if images else None,
        text=None if images else _text(spec, facts, dataset),
        preference=_preference(spec) if spec.task is Task.DPO else None,
        lora=None if spec.lora is None else _lora(spec.lora, facts),
        quantization=None if spec.quantization is None else _quantization(spec.quantization),
        attn_implementation=_attention(spec.attn_implementation, facts, on_cpu=on_cpu),
        precision=_precision(spec.precision, on_cpu=on_cpu),
        training=_training(spec, facts),
        evaluation=_evaluation(spec),
        checkpointing=_filled(
            spec.checkpointing or CheckpointOptions(),
            save_strategy=IntervalStrategy.EPOCH,
            save_total_limit=2,
        ),
        placement=placement,
        scheduling=_filled(spec.scheduling or SchedulingOptions(), priority=0, retry_limit=3),
        report_to=spec.report_to or (Reporter.TENSORBOARD,),
        seed=42 if spec.seed is None else spec.seed,
    )


_USUAL_LENGTH = 1024
_TRAINING = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": SchedulerType.LINEAR,
    "warmup_steps": 0.0,
    "optim": Optimizer.ADAMW_TORCH_FUSED,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "max_grad_norm": 1.0,
    "torch_compile": False,
    "logging_steps": 10,
    "dataloader_num_workers": 0,
    "label_smoothing_factor": 0.0,
    "use_liger_kernel": False,
}


def _filled(options: T, **defaults: Any) -> T:
    """Return options in which what was not given has its default."""
    open_fields = {f.name for f in fields(options) if getattr(options, f.name) in (None, "", ())}  # type: ignore[arg-type]
    return replace(options, **{k: v for k, v in defaults.items() if k in open_fields})  # type: ignore[type-var]


def _image(image: ImageOptions | None, facts: ModelFacts) -> ImageOptions:
    image = image or ImageOptions()
    usual = (Augmentation.RANDOM_RESIZED_CROP, Augmentation.RANDOM_HORIZONTAL_FLIP)
    augmentations = () if image.no_augmentations else image.augmentations or usual
    # Picked labels are written in the order of the class indices.
    image = replace(image, labels=facts.labels, augmentations=augmentations)
    return _filled(image, image_size=facts.image_size)


def _text(spec: TrainingSpec, facts: ModelFacts, dataset: DatasetSummary) -> TextOptions:
    rows = dataset.row_shape
    text = _filled(
        spec.text or TextOptions(),
        max_length=min(_USUAL_LENGTH, facts.positions or _USUAL_LENGTH),
        packing=False,
        assistant_only_loss=False,
        dataset_text_field=text_column(dataset) or "text",
    )
    # Without data nobody knows what its rows are; preferences and encoders have no other loss.
    if rows is None or spec.task is Task.DPO or facts.has_encoder:
        return text
    return _filled(text, completion_only_loss=rows is RowShape.PROMPT_COMPLETION)


def _preference(spec: TrainingSpec) -> PreferenceOptions:
    return _filled(
        spec.preference or PreferenceOptions(),
        beta=0.1,
        loss_type=("sigmoid",),
        label_smoothing=0.0,
        # It gives the losses of a second model for half the memory; with an adapter there is none.
        precompute_ref_log_probs=spec.lora is None,
    )


def _lora(lora: LoraOptions, facts: ModelFacts) -> LoraOptions:
    rank = lora.r or 16
    return _filled(
        lora,
        r=rank,
        lora_alpha=2.0 * rank,
        lora_dropout=0.0,
        target_modules=() if lora.target_parameters else ("all-linear",),
        modules_to_save=facts.head_modules,
        use_dora=False,
        use_rslora=False,
    )


def _quantization(quantization: QuantizationOptions) -> QuantizationOptions:
    return _filled(quantization, bnb_4bit_use_double_quant=quantization.method is QuantizationMethod.NF4)


def _attention(attention: Attention | None, facts: ModelFacts, *, on_cpu: bool) -> Attention:
    if attention in (None, Attention.AUTO) and on_cpu:
        return Attention.SDPA if facts.supports_sdpa else Attention.EAGER
    return attention or Attention.AUTO


def _precision(precision: Precision | None, *, on_cpu: bool) -> Precision:
    if precision in (None, Precision.AUTO) and on_cpu:
        return Precision.FP32
    return precision or Precision.AUTO


def _training(spec: TrainingSpec, facts: ModelFacts) -> TrainingOptions:
    training = spec.training or TrainingOptions()
    rates = {Task.DPO: 1e-6}
    rate = rates.get(spec.task, 5e-5 if spec.lora is None else 2e-4)
    checkpointing = spec.task is not Task.IMAGE_CLASSIFICATION and facts.supports_checkpointing
    training = _filled(training, **_TRAINING, learning_rate=rate, gradient_checkpointing=checkpointing)
    # Epochs and steps contradict each other: the one that was given decides.
    return training if training.max_steps else _filled(training, num_train_epochs=3.0)


def _evaluation(spec: TrainingSpec) -> EvaluationOptions:
    evaluation = spec.evaluation or EvaluationOptions()
    batch = 8 if spec.training is None else spec.training.per_device_train_batch_size or 8
    nothing = evaluation.validation_split == 0
    return _filled(
        evaluation,
        validation_split=0.1,
        eval_strategy=IntervalStrategy.NO if nothing else IntervalStrategy.EPOCH,
        per_device_eval_batch_size=batch,
        load_best_model_at_end=False,
        metric_for_best_model="accuracy" if spec.task is Task.IMAGE_CLASSIFICATION else "loss",
        early_stopping_threshold=0.0,
    )


def _placement(placement: PlacementOptions | None) -> PlacementOptions:
    return _filled(
        placement or PlacementOptions(),
        device=DeviceKind.AUTO,
        device_count=1,
        shared=False,
        expert_offload=False,
        activation_offload=False,
        sharding=ShardingStrategy.DDP,
    )
