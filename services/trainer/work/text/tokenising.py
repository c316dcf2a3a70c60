"""Turning the rows of a file into tokens, in two files: what is trained on, and what is held out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import EvaluationOptions, Task, TextOptions, TrainingSpec
from services.trainer.recipes.fields import need
from services.trainer.work.errors import BadItem
from services.trainer.work.text.encoding import CausalEncoder, Encoder, PreferenceEncoder, Seq2SeqEncoder
from services.trainer.work.text.source import TextSource
from services.trainer.work.text.split import held_out_below
from services.trainer.work.text.statistics import TokenStatistics
from services.trainer.work.text.tokenfile import TokenRows, TokenWriter
from services.trainer.work.text.words import Words
from services.trainer.work.tokenizers import embedding_rows


def tokenise(
    source: TextSource, spec: TrainingSpec, config: PreTrainedConfig, words: Words, folder: Path
) -> tuple[TokenRows, TokenRows, TokenStatistics]:
    """Read the rows twice, to divide them and to turn them into tokens; the files in `folder` have no names.

    Returns:
        The rows to train on, the held-out ones, and what there is to tell of both.

    Raises:
        BadItem: a row cannot be used, or there are too few to hold any out.
        InvalidSpec: what the spec asks for does not go with these rows or this model.
        InvalidModel: the tokenizer gives tokens that the model has no row for.
    """
    max_length = need(need(spec.text, "text").max_length, "text.max_length")
    _check_positions(config, max_length)
    encoder = _encoder(spec, config, words, source, max_length)
    fitting = _Fitting(words.tokenizer, config)
    keys = source.keys(need(spec.seed, "seed"))
    below = held_out_below(keys, (spec.evaluation or EvaluationOptions()).validation_split or 0.0)
    statistics = TokenStatistics(max_length, duplicates=len(keys) - len(np.unique(keys)))
    folder.mkdir(exist_ok=True)
    paths = (folder / "train", folder / "held_out")
    with TokenWriter(paths[0], encoder.columns) as train, TokenWriter(paths[1], encoder.columns) as held_out:
        for (place, row), key in zip(source.rows(), keys.tolist(), strict=True):
            try:
                encoded = encoder.encode(row)
            except BadItem as error:
                raise BadItem.of(place, error.detail) from error
            statistics.add(place, encoded)
            for tokens in encoded.rows:
                fitting.check(place, tokens)
                (held_out if key <= below else train).add(tokens)
    return train.rows(), held_out.rows(), statistics


def _encoder(
    spec: TrainingSpec, config: PreTrainedConfig, words: Words, source: TextSource, max_length: int
) -> Encoder:
    if spec.task is Task.DPO:
        return PreferenceEncoder(words, max_length)
    if config.is_encoder_decoder:
        return Seq2SeqEncoder(words, source.shape, max_length)
    return CausalEncoder(words, source.shape, spec.text or TextOptions(), max_length)


class _Fitting:
    """Whether the model has a row in its embedding for every token. Without, it fails in the middle."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
        self._tokenizer = tokenizer
        self._rows = embedding_rows(config)
        self._name = config.model_type

    def check(self, place: str, row: Mapping[str, list[int]]) -> None:
        highest = max(max(tokens, default=0) for tokens in row.values())
        if highest >= self._rows:
            token = self._tokenizer.convert_ids_to_tokens(highest)
            detail = (
                f"its tokenizer gives {token!r} in {place} the number {highest}, and its embedding has "
                f"{self._rows} rows: the two do not belong together"
            )
            raise InvalidModel(model=self._name, detail=detail)


def _check_positions(config: PreTrainedConfig, max_length: int) -> None:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_length > positions and not config.is_encoder_decoder:
        limit = f"this model knows {positions} positions: set it to that at most"
        raise InvalidSpec("text.max_length", max_length, limit)
