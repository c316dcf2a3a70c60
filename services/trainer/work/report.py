"""What a finished training is judged by: figures on held-out data, and how it went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.common.specs import Task
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.runs.records import DevicePeak
from services.trainer.work.best import BestWeights, Standing
from services.trainer.work.data import RunData
from services.trainer.work.images.judging import Confusion
from services.trainer.work.measures import measures_of


@dataclass(frozen=True, kw_only=True)
class Report:
    """A training's result."""

    figures: Mapping[str, float]
    """What the weights that are kept reach on held-out data, and the last loss of the training."""
    confusion: Confusion | None
    """What is taken for what, by a classifier. None: it is none, or nothing was held out."""
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
        return {
            **self.figures,
            "examples": dict(self.examples),
            "steps": self.step,
            "epochs": self.epoch,
            "kept_step": self.kept_step,
            "best": None if self.best is None else {"step": self.best.step, "value": self.best.value},
            "memory": [vars(peak) for peak in self.peaks],
            **({} if self.confusion is None else self.confusion.as_json()),
        }


def report_on(
    trainer: RecipeTrainer, task: Task, data: RunData, best: BestWeights, peaks: Sequence[DevicePeak]
) -> Report:
    """Return the report on the weights that the trainer holds now."""
    kept_step = best.standing.step if best.standing and best.keeps else trainer.state.global_step
    metrics, confusion = data.judge(trainer, kept_step)
    figures = measures_of(task).read(metrics, "eval_")
    state = trainer.state
    # The whole job's, whichever attempts it took: checkpoints carry the log along.
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    if losses:
        figures["train_loss"] = losses[-1]
    return Report(
        figures=figures,
        confusion=confusion,
        history=state.log_history,
        examples=data.counts(),
        step=state.global_step,
        epoch=float(state.epoch or 0),
        best=best.standing,
        kept_step=kept_step,
        peaks=peaks,
    )
