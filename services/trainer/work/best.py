"""Keeping the best weights, and stopping when they get no better.

transformers' own way needs the best checkpoint to stand where it was written; here it may be on another node,
so every checkpoint carries the best weights with it.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.common.errors import InvalidSpec
from services.common.specs import EvaluationOptions
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.work.checkpoints import read_weights_into, write_weights

METRICS = ("accuracy", "macro_f1", "loss")
"""The figures of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The best evaluation so far."""

    step: int
    value: float
    without_gain: int = 0
    """Evaluations since one that was better by more than the threshold."""


class BestWeights(TrainerCallback):
    """Looks at each evaluation."""

    def __init__(self, trainer: RecipeTrainer, folder: Path, options: EvaluationOptions) -> None:
        """Keep weights in `folder`, if the spec wants the best ones; stop early, if it wants that.

        Raises:
            InvalidSpec: the figure that decides is none that an evaluation gives.
        """
        self.folder = folder
        self.standing: Standing | None = None
        self._trainer = trainer
        self._options = options
        self._metric = (options.metric_for_best_model or "accuracy").removeprefix("eval_")
        if self._metric not in METRICS:
            limit = f"an evaluation gives {', '.join(METRICS)}"
            raise InvalidSpec("evaluation.metric_for_best_model", self._metric, limit)

    @property
    def keeps(self) -> bool:
        """Whether the best weights are wanted, and there are some."""
        return bool(self._options.load_best_model_at_end) and self.folder.is_dir()

    @property
    def has_had_enough(self) -> bool:
        """Whether training stops early now."""
        patience = self._options.early_stopping_patience
        return patience is not None and self._without_gain() >= patience

    def state(self) -> dict[str, float] | None:
        """Return what a checkpoint must hold to go on."""
        return None if self.standing is None else dict(vars(self.standing))

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`."""
        self.standing = None if state is None else Standing(**state)

    def load_best(self) -> None:
        """Put the best weights into the model, where they are wanted."""
        if self.keeps and self.standing is not None:
            read_weights_into(self._trainer.network, self.folder, self.standing.step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare the evaluation with the best one so far."""
        value = (metrics or {}).get(f"eval_{self._metric}")
        if value is None or not math.isfinite(value):
            return
        gain = math.inf if self.standing is None else self._gain(value, self.standing.value)
        # A small gain makes the best, and yet does not count as one that makes waiting worth it.
        stale = 0 if gain > (self._options.early_stopping_threshold or 0.0) else self._without_gain() + 1
        if gain > 0:
            self.standing = Standing(step=state.global_step, value=value, without_gain=stale)
            self._keep(state.global_step)
        elif self.standing is not None:
            self.standing = Standing(step=self.standing.step, value=self.standing.value, without_gain=stale)
        if self.has_had_enough:
            control.should_training_stop = True

    def _gain(self, value: float, best: float) -> float:
        return best - value if self._metric.endswith("loss") else value - best

    def _without_gain(self) -> int:
        return 0 if self.standing is None else self.standing.without_gain

    def _keep(self, step: int) -> None:
        if self._options.load_best_model_at_end:
            # Anew, not over the old files: a checkpoint may be linked to those.
            shutil.rmtree(self.folder, ignore_errors=True)
            write_weights(self._trainer.network, self.folder, step)
