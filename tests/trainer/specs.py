"""Resolved specs of tiny image classifiers, with nothing left open."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.common.specs import (
    Augmentation,
    CheckpointOptions,
    DatasetFormat,
    DatasetSummary,
    EvaluationOptions,
    ImageOptions,
    IntervalStrategy,
    LabelCount,
    LoraOptions,
    ModelSource,
    Optimizer,
    Reporter,
    ResolvedModel,
    ResolvedSpec,
    SchedulerType,
    Task,
    TrainingOptions,
    TrainingSpec,
)

TINY = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}

TRAINING = TrainingOptions(
    num_train_epochs=3.0,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-3,
    lr_scheduler_type=SchedulerType.LINEAR,
    warmup_steps=0.0,
    optim=Optimizer.ADAMW_TORCH_FUSED,
    weight_decay=0.01,
    adam_beta1=0.9,
    adam_beta2=0.999,
    max_grad_norm=1.0,
    logging_steps=1,
    dataloader_num_workers=0,
)

LORA = LoraOptions(r=4, lora_alpha=8.0, lora_dropout=0.1, target_modules=("all-linear",))

SPEC = TrainingSpec(
    task=Task.IMAGE_CLASSIFICATION,
    model=ModelSource(config=TINY),
    dataset="projects/default/datasets/shapes",
    image=ImageOptions(
        image_size=16,
        augmentations=(Augmentation.RANDOM_AFFINE, Augmentation.RANDOM_HORIZONTAL_FLIP),
    ),
    training=TRAINING,
    evaluation=EvaluationOptions(validation_split=0.25, eval_strategy=IntervalStrategy.EPOCH),
    checkpointing=CheckpointOptions(save_strategy=IntervalStrategy.STEPS, save_steps=2),
    report_to=(Reporter.TENSORBOARD,),
    seed=7,
)


def config_json(labels: Sequence[str], **changes: Any) -> str:
    """Return a tiny model's config as the resolver writes it."""
    named = dict(enumerate(labels))
    config = {
        **TINY,
        **changes,
        "id2label": named,
        "label2id": {name: index for index, name in named.items()},
    }
    return json.dumps(config, sort_keys=True)


def resolved(spec: TrainingSpec, data: Path, labels: Sequence[str], **config: Any) -> ResolvedSpec:
    """Return a spec resolved to the labels of a zip."""
    content = data.read_bytes()
    return ResolvedSpec(
        spec=replace(spec, image=replace(spec.image or ImageOptions(), labels=tuple(labels))),
        model=ResolvedModel(config_json=config_json(labels, **config), model_type="vit"),
        dataset=DatasetSummary(
            name=spec.dataset,
            digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
            size_bytes=len(content),
            format=DatasetFormat.IMAGE_FOLDER_ZIP,
            example_count=0,
            labels=tuple(LabelCount(label=label, count=0) for label in labels),
        ),
        resolver_version="test",
    )
