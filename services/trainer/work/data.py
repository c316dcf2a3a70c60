"""A run's data, whatever it is made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from services.common.specs import Task
from services.trainer.recipes.model import label_names
from services.trainer.recipes.trainer import Example, RecipeTrainer
from services.trainer.work.events import EventWriter
from services.trainer.work.images.judging import Confusion
from services.trainer.work.inputs import RunInputs


class RunData(Protocol):
    """What is trained on and what is held out: `images.data.ImageData` or `text.data.TextData`."""

    @property
    def train(self) -> Dataset[Example]:
        """The examples to train on."""

    @property
    def held_out(self) -> Dataset[Example] | None:
        """The examples to judge by. None: nothing is held out."""

    @property
    def order(self) -> Sampler[int] | None:
        """The order of the training examples. None: transformers' own, shuffled by the seed."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """What made the tokens. None: there are none."""

    def counts(self) -> Mapping[str, int]:
        """Return how many examples are trained on and held out."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return what `dataset.json` says beside that."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Make ready for an epoch, counted from 0; a loader's processes are forked after that."""
        ...

    def judge(self, trainer: RecipeTrainer, step: int) -> tuple[Mapping[str, float], Confusion | None]:
        """Return what the held-out examples say of the weights that the trainer holds, those of `step`.

        The figures are as an evaluation's are logged, by names that begin with `eval_`.
        """
        ...

    def save(self, draft: Path) -> None:
        """Write what prepares inputs for the model, beside the model in `draft`."""
        ...


def open_data(inputs: RunInputs, config: PreTrainedConfig, folder: Path, events: EventWriter) -> RunData:
    """Return the data of a run; `folder` is for files of its own.

    Raises:
        BadItem, InvalidSpec, InvalidModel, FetchFailed: see `open_images`, `read_tokenizer` and `open_text`.
    """
    # Each imports what the other has no use for.
    if inputs.resolved.spec.task is Task.IMAGE_CLASSIFICATION:
        from services.trainer.work.images.data import open_images

        return open_images(inputs, label_names(config))
    from services.trainer.work.text.data import open_text
    from services.trainer.work.tokenizers import read_tokenizer

    return open_text(inputs, config, read_tokenizer(inputs, config, events), folder, events)
