"""What a finished training is judged by: figures on held-out data, overall and for each label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.trainer.recipes.image_classification import confusion, per_label
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.runs.records import DevicePeak
from services.trainer.work.best import BestWeights, Standing
from services.trainer.work.callbacks import without_timings
from services.trainer.work.data import RunData


@dataclass(frozen=True, kw_only=True)
class Report:
    """A training's result."""

    figures: Mapping[str, float]
    """Accuracy, loss and mean F1 of the weights that are kept, on held-out data."""
    labels: Sequence[str]
    confusion: np.ndarray | None
    """Of shape (labels, labels): row the truth, column the guess. None: nothing was held out."""
    history: Sequence[Mapping[str, float]]
    """What was logged, from the job's first step on."""
    examples: Mapping[str, int]
    step: int
    epoch: float
    best: Standing | None
    """The best evaluation."""
    kept_step: int
    """The step whose weights are kept: the best one's where the spec says so, else the last."""
    peaks: Sequence[DevicePeak]

    def as_json(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        content: dict[str, Any] = {
            **self.figures,
            "examples": dict(self.examples),
            "steps": self.step,
            "epochs": self.epoch,
            "kept_step": self.kept_step,
            "best": None if self.best is None else {"step": self.best.step, "value": self.best.value},
            "memory": [vars(peak) for peak in self.peaks],
        }
        if self.confusion is not None:
            content["per_label"] = self.by_label()
            content["confusion_matrix"] = {"labels": list(self.labels), "counts": self.confusion.tolist()}
        return content

    def by_label(self) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 and the number of held-out images of each label."""
        if self.confusion is None:
            return {}
        columns = (*per_label(self.confusion), self.confusion.sum(axis=1))
        names = ("precision", "recall", "f1", "support")
        return {
            label: {name: column[index].item() for name, column in zip(names, columns, strict=True)}
            for index, label in enumerate(self.labels)
        }


def report_on(
    trainer: RecipeTrainer, data: RunData, best: BestWeights, peaks: Sequence[DevicePeak]
) -> Report:
    """Return the report on the weights that the trainer holds now."""
    figures: dict[str, float] = {}
    counts = None
    if data.held_out is not None:
        predicted = trainer.predict(data.held_out)
        figures = without_timings(predicted.metrics or {}, "test_")
        logits = np.asarray(predicted.predictions)
        counts = confusion(np.asarray(predicted.label_ids), logits.argmax(axis=-1), len(data.labels))
    state = trainer.state
    # The whole job's, whichever attempts it took: checkpoints carry the log along.
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    if losses:
        figures["train_loss"] = losses[-1]
    return Report(
        figures=figures,
        labels=data.labels,
        confusion=counts,
        history=state.log_history,
        examples=data.counts(),
        step=state.global_step,
        epoch=float(state.epoch or 0),
        best=best.standing,
        kept_step=best.standing.step if best.standing and best.keeps else state.global_step,
        peaks=peaks,
    )
