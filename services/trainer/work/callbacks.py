"""What the worker does between the Trainer's steps: tell how far it is, obey, and notice when it diverges."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.work.errors import Diverged
from services.trainer.work.events import EventWriter
from services.trainer.work.measures import Measures
from services.trainer.work.memory import MemoryWatch
from services.trainer.work.ranks import Ranks
from services.trainer.work.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)


class Telling(TrainerCallback):
    """Turns what the Trainer logs into events."""

    def __init__(self, events: EventWriter, watch: MemoryWatch, measures: Measures) -> None:
        """Tell `events`, with the memory that `watch` saw, and of evaluations what `measures` says."""
        self.evaluated: dict[int, dict[str, float]] = {}
        """The figures of each evaluation, by step."""
        self._events = events
        self._watch = watch
        self._measures = measures
        self._begun = self._last = (0, 0.0)
        self._tokens = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell that training begins."""
        self._begun = self._last = (state.global_step, time.monotonic())
        self._events.started(state.max_steps)
        log.info("training from step %d to %d", state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell how far it is."""
        if logs is None or "loss" not in logs:
            return
        now = (state.global_step, time.monotonic())
        # Full batches: the last one of an epoch counts for a little more than it holds.
        examples = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        figures: dict[str, float | None] = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": state.epoch,
            **{name: logs.get(name) for name in ("loss", "learning_rate", "grad_norm")},
            "examples_per_second": examples * _per_second(self._last, now),
            "tokens_per_second": self._new_tokens(logs) / max(1e-9, now[1] - self._last[1]),
            "eta_s": _eta_s(self._begun, now, state.max_steps),
        }
        self._last = now
        self._events.progress(figures, self._watch.peaks())
        log.info("step %d of %d, epoch %.2f: loss %.4f", *now[:1], state.max_steps, state.epoch, logs["loss"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Tell an evaluation's figures."""
        figures = self._measures.read(metrics or {}, "eval_")
        self.evaluated[state.global_step] = figures
        self._events.evaluation(state.global_step, state.epoch or 0.0, figures)
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        log.info("evaluated after step %d: %s", state.global_step, told)
        if not math.isfinite(figures.get("loss", 0.0)):
            raise Diverged(state.global_step)

    def _new_tokens(self, logs: Mapping[str, float]) -> float:
        """Return the tokens since the last log; 0 where none are counted."""
        before, self._tokens = self._tokens, logs.get("num_tokens", 0.0)
        return self._tokens - before


class Obeying(TrainerCallback):
    """Stops the training when that is asked for, and when it leads nowhere.

    Only one rank is asked. All stop at the same point, or some would wait for gradients that never come.
    """

    def __init__(self, trainer: RecipeTrainer, stop: StopRequest, ranks: Ranks) -> None:
        """Stop `trainer` once `stop` is asked for on any rank."""
        self._trainer = trainer
        self._stop = stop
        self._ranks = ranks

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notice a loss that is no number, and write a last checkpoint when it is time to stop."""
        # Before a checkpoint of this step is written: it would hold what cannot be gone on from.
        if not math.isfinite(float(self._trainer._tr_loss)):
            raise Diverged(state.global_step)
        if self._ranks.agree(self._stop.asked):
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out what an epoch's end would bring: who stops is in a hurry."""
        if self._ranks.agree(self._stop.asked):
            control.should_evaluate = control.should_save = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Break an evaluation off; it is done again when the run goes on."""
        if self._ranks.agree(self._stop.asked):
            raise Stopped


class Pacing(TrainerCallback):
    """Tells the data which epoch it is, and lets evaluation go before a checkpoint of the same step."""

    def __init__(self, trainer: RecipeTrainer, begin_epoch: Callable[[int], None]) -> None:
        """Pace `trainer`, calling `begin_epoch` before each epoch, which are counted from 0."""
        self._trainer = trainer
        self._begin_epoch = begin_epoch
        self._save_after_evaluation = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make up for the evaluation that the run was stopped in."""
        if evaluation_is_due(args, state):
            self._trainer.evaluate()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the epoch's order or augmentations differ from the last one's."""
        # Exact: at an epoch's end the Trainer adds a fraction of n/n, and JSON keeps every bit.
        self._begin_epoch(int(state.epoch or 0))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put off a checkpoint that is due before the evaluation of the same step."""
        ends = control.should_training_stop or float(state.epoch or 0).is_integer()
        if control.should_save and ends and args.eval_strategy == IntervalStrategy.EPOCH:
            # What is best so far, and for how long nothing was better, belongs into the checkpoint.
            control.should_save = False
            self._save_after_evaluation = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what was put off."""
        control.should_save |= self._save_after_evaluation
        self._save_after_evaluation = False


def evaluation_is_due(args: TrainingArguments, state: TrainerState) -> bool:
    """Say whether the step that a run goes on from is yet to be evaluated: it was stopped before that."""
    step = state.global_step
    if step == 0 or any(entry["step"] == step and "eval_loss" in entry for entry in state.log_history):
        return False
    if args.eval_strategy == IntervalStrategy.EPOCH:
        return float(state.epoch or 0).is_integer()
    return args.eval_strategy == IntervalStrategy.STEPS and step % int(args.eval_steps or 1) == 0


def _per_second(before: tuple[int, float], now: tuple[int, float]) -> float:
    return (now[0] - before[0]) / max(1e-9, now[1] - before[1])


def _eta_s(begun: tuple[int, float], now: tuple[int, float], total_steps: int) -> float:
    return (total_steps - now[0]) / max(1e-9, _per_second(begun, now))
