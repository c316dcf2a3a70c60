"""The artifact: a directory that transformers loads without anything else, and that says where it comes from.

config.json  model.safetensors                                what transformers loads
preprocessor_config.json | tokenizer.json …                   what prepares its inputs
adapter/                          the adapter alone, where one was trained; it is merged above
README.md  training_curve.png  confusion_matrix.png           for people
metrics.json  dataset.json  environment.json  resolved_spec.json
tensorboard/                      unless the spec wants none

An adapter is merged although that costs a base model's size: its base may be random, or the artifact of a job
that is deleted by then, and a hub's repository may be gone.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from services.common import atomic
from services.common.specs import Reporter
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.runs.directory import RunDirectory
from services.trainer.work.card import model_card
from services.trainer.work.checkpoints import write_weights
from services.trainer.work.data import RunData
from services.trainer.work.environment import describe
from services.trainer.work.inputs import RunInputs
from services.trainer.work.measures import measures_of
from services.trainer.work.report import Report

Merge = Callable[[Path], PreTrainedModel]
"""Merges the adapter in a directory into the base that it was trained on."""


def write_artifact(
    directory: RunDirectory,
    trainer: RecipeTrainer,
    inputs: RunInputs,
    data: RunData,
    report: Report,
    merge: Merge,
) -> None:
    """Write the artifact, whole or not at all. Merges the adapter, so nothing is trained after this."""
    draft = directory.path / ".artifact.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    adapter = isinstance(trainer.network, PeftModel)
    _write_model(trainer, inputs, draft, merge)
    data.save(draft)
    _write_facts(draft, inputs, data, report)
    _write_pictures(draft, inputs, report)
    if Reporter.NONE not in inputs.resolved.spec.report_to:
        _write_tensorboard(draft / "tensorboard", report.history)
    card = model_card(inputs.resolved, data, report, inputs.record.predicted_bytes, adapter)
    (draft / "README.md").write_text(card)
    atomic.publish_directory(draft, directory.artifact)


def _write_model(trainer: RecipeTrainer, inputs: RunInputs, draft: Path, merge: Merge) -> None:
    model = trainer.network
    if isinstance(model, PeftModel):
        # Otherwise the adapter would name a directory of this node as its base, or nothing.
        settings = model.peft_config["default"]
        settings.base_model_name_or_path = inputs.resolved.spec.model.hub
        settings.revision = inputs.resolved.model.revision or None
        write_weights(model, draft / "adapter", trainer.state.global_step)
        model = merge(draft / "adapter")
    # Activation checkpointing switches it off, and whoever loads the model would write a token a minute.
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = True
    # Under the hub's names: every version of transformers that knows the architecture loads those.
    model.save_pretrained(str(draft))


def _write_facts(draft: Path, inputs: RunInputs, data: RunData, report: Report) -> None:
    resolved = inputs.resolved
    facts = {
        "metrics.json": report.as_json(),
        "dataset.json": {**asdict(resolved.dataset), "used": dict(data.counts()), **data.facts()},
        "environment.json": describe(inputs.record.device),
        "resolved_spec.json": {"sha256": inputs.record.spec_sha256, **_without_absent(asdict(resolved))},
    }
    for name, content in facts.items():
        atomic.write_json(draft / name, content)


def _without_absent(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_absent(part) for key, part in value.items() if part is not None}
    return value


def _write_pictures(draft: Path, inputs: RunInputs, report: Report) -> None:
    # Imported here: it takes a second, and a run that fails before has no use for it.
    from services.trainer.work.figures import draw_confusion_matrix, draw_training_curve

    kept = report.kept_step if report.kept_step != report.step else None
    measures = measures_of(inputs.resolved.spec.task)
    draw_training_curve(draft / "training_curve.png", report.history, measures, kept)
    if report.confusion is not None:
        draw_confusion_matrix(
            draft / "confusion_matrix.png", report.confusion.labels, report.confusion.counts
        )


def _write_tensorboard(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write what was logged, from the job's first step on, whichever attempt took it."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for entry in history:
            for name, value in entry.items():
                group, _, figure = name.rpartition("eval_")
                if name not in ("step", "epoch") and "step" in entry and isinstance(value, (int, float)):
                    tag = f"held_out/{figure}" if name.startswith("eval_") else f"train/{group}{figure}"
                    writer.add_scalar(tag, value, int(entry["step"]))
