"""A run's text: read, divided, turned into tokens on the run's disk, and told about."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from services.common.errors import InvalidSpec
from services.common.specs import PlacementOptions, TrainingSpec
from services.trainer.recipes.fields import need
from services.trainer.recipes.trainer import Example, RecipeTrainer
from services.trainer.runs.records import NoticeLevel
from services.trainer.work.errors import BadItem
from services.trainer.work.events import EventWriter
from services.trainer.work.inputs import RunInputs
from services.trainer.work.text.encoding import PROMPT_TOO_LONG
from services.trainer.work.text.order import LongestFirst
from services.trainer.work.text.packing import PackedRows
from services.trainer.work.text.source import TextSource, check_task
from services.trainer.work.text.statistics import TokenStatistics
from services.trainer.work.text.tokenfile import TokenRows
from services.trainer.work.text.tokenising import tokenise
from services.trainer.work.text.words import Words

# The first step, and the second, in which what the optimiser keeps is there too.
_STEPS_OF_LONGEST = 2


@dataclass(frozen=True)
class TextData:
    """The rows of tokens, and what is kept and told of them; see `work.data.RunData`."""

    tokenizer: PreTrainedTokenizerBase
    train: Dataset[Example]
    held_out: Dataset[Example] | None
    order: LongestFirst
    statistics: TokenStatistics
    sizes: Mapping[str, int]
    """Rows that are trained on and held out, and, where rows are packed, what they are packed into."""
    ends: tuple[int, ...]
    """Tokens that end what the model writes: of a text, and of a turn."""

    def counts(self) -> Mapping[str, int]:
        """Return how many rows are trained on and held out."""
        return self.sizes

    def facts(self) -> Mapping[str, Any]:
        """Return what `dataset.json` says of the tokens."""
        return {"tokens": self.statistics.facts()}

    def begin_epoch(self, epoch: int) -> None:
        """Shuffle for an epoch."""
        self.order.set_epoch(epoch)

    def judge(self, trainer: RecipeTrainer, step: int) -> tuple[Mapping[str, float], None]:
        """Return the figures of the evaluation of `step`; only where there was none they are found now."""
        if self.held_out is None:
            return {}, None
        evaluated = [
            entry for entry in trainer.state.log_history if entry["step"] == step and "eval_loss" in entry
        ]
        return evaluated[-1] if evaluated else trainer.evaluate(), None

    def save(self, draft: Path) -> None:
        """Write the tokenizer, and how the model is to stop."""
        self.tokenizer.save_pretrained(str(draft))
        written = draft / "generation_config.json"
        settings = json.loads(written.read_bytes()) if written.is_file() else {}
        # As long as it says that, transformers takes the model's config for truer.
        settings.pop("_from_model_config", None)
        settings |= {"eos_token_id": list(self.ends), "pad_token_id": self.tokenizer.pad_token_id}
        GenerationConfig(**settings).save_pretrained(str(draft))


def open_text(
    inputs: RunInputs,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    events: EventWriter,
) -> TextData:
    """Turn a run's rows into tokens, in files of `folder`, and tell what is cut, left out or remarkable.

    Raises:
        BadItem: a row cannot be used, or none can.
        InvalidSpec, InvalidModel: see `tokenise`.
    """
    resolved = inputs.resolved
    spec, options, words = resolved.spec, need(resolved.spec.text, "text"), Words(tokenizer)
    source = TextSource(inputs.dataset, resolved.dataset.format, options.dataset_text_field)
    check_task(spec.task, source.shape)
    train, held_out, statistics = tokenise(source, spec, config, words, folder)
    _tell(events, statistics, words)
    _check_that_something_is_left(train, statistics)
    if spec.evaluation and spec.evaluation.validation_split and not len(held_out):
        message = "none of the rows that were to be held out can be used: nothing is evaluated"
        events.notice(message, NoticeLevel.WARNING)
    sizes = {"train": len(train), "held_out": len(held_out)}
    rows: TokenRows | PackedRows = train
    if options.packing:
        rows = PackedRows(train, statistics.max_length)
        sizes["packed"] = len(rows)
        filled = float(rows.lengths.sum() / (len(rows) * statistics.max_length))
        events.notice(f"{len(train):,} rows are packed into {len(rows):,}, which are {filled:.1%} full")
    return TextData(
        tokenizer=tokenizer,
        train=rows,
        held_out=held_out if len(held_out) else None,
        order=LongestFirst(_lengths(rows), need(spec.seed, "seed"), _first_rows(spec)),
        statistics=statistics,
        sizes=sizes,
        ends=tuple(sorted({words.eos, *words.conversations.ends})),
    )


def _tell(events: EventWriter, statistics: TokenStatistics, words: Words) -> None:
    events.notice(statistics.in_words())
    for sentence in statistics.losses_in_words():
        events.notice(sentence, NoticeLevel.WARNING)
    if words.merged:
        events.notice(
            f"in {words.merged:,} places the end of the prompt and the beginning of the answer would be one "
            "token; each is made tokens by itself, as when the model is used"
        )
    if words.conversations.without_end:
        events.notice(
            f"the chat template ends {words.conversations.without_end:,} conversations with no token that "
            f"could stop the model: {words.tokenizer.eos_token} is added to each",
            NoticeLevel.WARNING,
        )


def _check_that_something_is_left(train: TokenRows, statistics: TokenStatistics) -> None:
    if len(train):
        return
    if statistics.left_out[PROMPT_TOO_LONG]:
        limit = (
            f"no prompt leaves room for an answer, the shortest row having {statistics.shortest} tokens: "
            "raise it, or shorten the prompts"
        )
        raise InvalidSpec("text.max_length", statistics.max_length, limit)
    why = ", ".join(statistics.left_out) or "it has no rows"
    detail = f"nothing is left to train on: {why}; look at what the loss is taken of, and at the rows"
    raise BadItem.of("the data set", detail)


def _lengths(rows: TokenRows | PackedRows) -> np.ndarray:
    if isinstance(rows, PackedRows):
        return rows.lengths
    lengths = rows.sizes(rows.columns[0])
    if "prompt_ids" in rows.columns:
        lengths = lengths + np.maximum(rows.sizes("chosen_ids"), rows.sizes("rejected_ids"))
    if "attention_mask" in rows.columns:
        lengths = lengths + rows.sizes("labels")
    return lengths


def _first_rows(spec: TrainingSpec) -> int:
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "training.per_device_train_batch_size")
    devices = (spec.placement or PlacementOptions()).device_count or 1
    return _STEPS_OF_LONGEST * batch * (training.gradient_accumulation_steps or 1) * devices
