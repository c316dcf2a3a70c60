"""What the worker does between the Trainer's steps: tell how far it is, obey, and notice when it diverges."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.work.errors import Diverged
from services.trainer.work.events import EventWriter
from services.trainer.work.images.examples import ImageExamples
from services.trainer.work.memory import MemoryWatch
from services.trainer.work.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)

# What an evaluation reports beside these says how fast it was.
_TIMINGS = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")


class Telling(TrainerCallback):
    """Turns what the Trainer logs into events."""

    def __init__(self, events: EventWriter, watch: MemoryWatch) -> None:
        """Tell `events`, with the memory that `watch` saw."""
        self.evaluated: dict[int, dict[str, float]] = {}
        """The figures of each evaluation, by step."""
        self._events = events
        self._watch = watch
        self._begun = self._last = (0, 0.0)

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
        examples = args.per_device_train_batch_size * args.gradient_accumulation_steps
        figures: dict[str, float | None] = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": state.epoch,
            **{name: logs.get(name) for name in ("loss", "learning_rate", "grad_norm")},
            "examples_per_second": examples * _per_second(self._last, now),
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
        figures = without_timings(metrics or {}, "eval_")
        self.evaluated[state.global_step] = figures
        self._events.evaluation(state.global_step, state.epoch or 0.0, figures)
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        log.info("evaluated after step %d: %s", state.global_step, told)
        if not math.isfinite(figures.get("loss", 0.0)):
            raise Diverged(state.global_step)


class Obeying(TrainerCallback):
    """Stops the training when that is asked for, and when it leads nowhere."""

    def __init__(self, trainer: RecipeTrainer, stop: StopRequest) -> None:
        """Stop `trainer` once `stop` is asked for."""
        self._trainer = trainer
        self._stop = stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notice a loss that is no number, and write a last checkpoint when it is time to stop."""
        # Before a checkpoint of this step is written: it would hold what cannot be gone on from.
        if not math.isfinite(float(self._trainer._tr_loss)):
            raise Diverged(state.global_step)
        if self._stop.asked:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out what an epoch's end would bring: who stops is in a hurry."""
        if self._stop.asked:
            control.should_evaluate = control.should_save = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Break an evaluation off; it is done again when the run goes on."""
        if self._stop.asked:
            raise Stopped


class Pacing(TrainerCallback):
    """Tells the data which epoch it is, and lets evaluation go before a checkpoint of the same step."""

    def __init__(self, trainer: RecipeTrainer, examples: ImageExamples) -> None:
        """Pace `trainer`, which trains on `examples`."""
        self._trainer = trainer
        self._examples = examples
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
        """Let the epoch's augmentations differ from the last one's."""
        # Exact: at an epoch's end the Trainer adds a fraction of n/n, and JSON keeps every bit.
        self._examples.epoch = int(state.epoch or 0)

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


def without_timings(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the figures that say how good a model is, without transformers' prefix."""
    named = {name.removeprefix(prefix): float(value) for name, value in metrics.items()}
    return {name: value for name, value in named.items() if name not in _TIMINGS}


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
