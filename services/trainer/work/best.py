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
from services.trainer.work.measures import Measures, gain
from services.trainer.work.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The best evaluation so far."""

    step: int
    value: float
    without_gain: int = 0
    """Evaluations since one that was better by more than the threshold."""


class BestWeights(TrainerCallback):
    """Looks at each evaluation."""

    def __init__(
        self,
        trainer: RecipeTrainer,
        folder: Path,
        options: EvaluationOptions,
        measures: Measures,
        ranks: Ranks,
    ) -> None:
        """Keep weights in `folder`, if the spec wants the best ones; stop early, if it wants that.

        Raises:
            InvalidSpec: the figure that decides is none that an evaluation gives.
        """
        self.folder = folder
        self.standing: Standing | None = None
        self._trainer = trainer
        self._options = options
        self._measures = measures
        self._ranks = ranks
        self._metric = options.metric_for_best_model.removeprefix("eval_") or measures.names[0]
        if self._metric not in measures.names:
            limit = f"an evaluation gives {', '.join(measures.names)}"
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
        value = self._measures.read(metrics or {}, "eval_").get(self._metric)
        if value is None or not math.isfinite(value):
            return
        better = math.inf if self.standing is None else gain(self._metric, value, self.standing.value)
        # A small gain makes the best, and yet does not count as one that makes waiting worth it.
        stale = 0 if better > (self._options.early_stopping_threshold or 0.0) else self._without_gain() + 1
        if better > 0:
            self.standing = Standing(step=state.global_step, value=value, without_gain=stale)
            self._keep(state.global_step)
        elif self.standing is not None:
            self.standing = Standing(step=self.standing.step, value=self.standing.value, without_gain=stale)
        if self.has_had_enough:
            control.should_training_stop = True

    def _without_gain(self) -> int:
        return 0 if self.standing is None else self.standing.without_gain

    def _keep(self, step: int) -> None:
        if self._options.load_best_model_at_end and self._ranks.is_first:
            # Anew, not over the old files: a checkpoint may be linked to those.
            shutil.rmtree(self.folder, ignore_errors=True)
            write_weights(self._trainer.network, self.folder, step)
