"""The Trainer that recipes build: transformers' own, with checkpoints left to whoever runs it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer

from services.common.specs import CheckpointOptions, EvaluationOptions, IntervalStrategy

Example = Mapping[str, Any]


class RecipeTrainer(Trainer):
    """A Trainer without data, disk or network until `attach` and `hand_checkpoints_to` are called."""

    notices: tuple[str, ...] = ()
    """What is worth knowing about how it was built, as sentences."""
    order: Sampler[int] | None = None
    """The order of the training rows. None: shuffled by the seed."""
    _write: Callable[[], None] | None = None
    _read: Callable[[Path], None] | None = None

    @property
    def network(self) -> PreTrainedModel | PeftModel:
        """The model that it trains, with its adapter."""
        return cast(PreTrainedModel, self.model)

    def attach(
        self,
        train: Dataset[Example],
        evaluation: Dataset[Example] | None,
        when_to_evaluate: EvaluationOptions,
        when_to_save: CheckpointOptions,
    ) -> None:
        """Give it data. Without held-out data it never evaluates."""
        # Not in the constructor, which refuses to evaluate without data and knows no data yet.
        self.train_dataset, self.eval_dataset = train, evaluation
        evaluating = when_to_evaluate.eval_strategy or IntervalStrategy.EPOCH
        self.args.eval_strategy = (evaluating if evaluation is not None else IntervalStrategy.NO).value
        self.args.eval_steps = when_to_evaluate.eval_steps
        self.args.save_strategy = (when_to_save.save_strategy or IntervalStrategy.EPOCH).value
        self.args.save_steps = when_to_save.save_steps or self.args.save_steps

    def average_micro_batches(self) -> None:
        """Take the loss of a step as the mean over its micro-batches and devices of the model's own mean.

        Otherwise a model that takes any argument counts as one that divides its loss by the number of items
        in the whole step. Those that compute a mean all the same would learn with gradients too large by as
        many times as there are micro-batches and devices: BEiT, ResNet, T5 and Switch among others.
        """
        self.model_accepts_loss_kwargs = False

    def hand_checkpoints_to(self, write: Callable[[], None], read: Callable[[Path], None]) -> None:
        """Let `write` write each checkpoint, and `read` read the weights of the one to go on from."""
        self._write, self._read = write, read

    def save_state(self, folder: Path) -> None:
        """Write all but the weights that an exact continuation needs: optimiser, schedule, RNG, counts."""
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate without leaving a trace in the random numbers that training draws.

        A loader draws a seed when it begins. Were it from the same generator, a run that was stopped before
        an evaluation would go on with other dropout than one that was not.
        """
        with torch.random.fork_rng(enabled=True, devices=[]):
            result: dict[str, float] = super().evaluate(*args, **kwargs)
        return result

    def _get_train_sampler(self, train_dataset: Dataset[Example] | None = None) -> Sampler[int] | None:
        if self.order is not None:
            return self.order
        found: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        return found

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # The original writes in place, under names of older versions of transformers, and flushes nothing.
        if self._write is not None:
            self._write()

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        # The original passes over weights whose names it does not find.
        if self._read is None:
            raise RuntimeError("call hand_checkpoints_to before going on from a checkpoint")
        self._read(Path(resume_from_checkpoint))
