"""From a row of text to the tokens that a recipe trains on, for each shape of row and kind of model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from services.common.errors import InvalidSpec
from services.common.specs import RowShape, TextOptions
from services.trainer.work.text.words import Words

IGNORED = -100
"""The label of a token that no loss is taken of."""

PROMPT_TOO_LONG = "the prompt alone fills max_length"
NOTHING_TO_LEARN = "no token is left to learn from"
SAME_ANSWERS = "both answers are the same within max_length"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What became of one row."""

    rows: tuple[Mapping[str, list[int]], ...] = ()
    """Usually one; several where a long row is divided for packing; none where it is left out."""
    tokens: int
    """Its tokens before anything was cut."""
    learned: int = 0
    """Tokens that a loss is taken of."""
    cut: bool = False
    left_out: str = ""
    """Why, where it is."""


class Encoder(Protocol):
    """Turns rows of one shape into tokens."""

    columns: tuple[str, ...]

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """Return a canonical row's tokens. Raises BadItem, about `a row`."""
        ...


class CausalEncoder:
    """Rows of `input_ids` and `labels` for a model that predicts each next token."""

    columns: tuple[str, ...] = ("input_ids", "labels")

    def __init__(self, words: Words, shape: RowShape, options: TextOptions, max_length: int) -> None:
        """Encode rows of `shape`.

        Raises:
            InvalidSpec: a loss is asked for that such rows do not have; trl would take it of all tokens.
        """
        self._words = words
        self._shape = shape
        self._max_length = max_length
        self._packing = bool(options.packing)
        self._assistant_only = bool(options.assistant_only_loss)
        self._completion_only = options.completion_only_loss is not False
        if options.completion_only_loss and shape is not RowShape.PROMPT_COMPLETION:
            limit = f"rows of {shape} have no completion: use assistant_only_loss, or leave it out"
            raise InvalidSpec("text.completion_only_loss", "true", limit)
        if self._assistant_only and shape is RowShape.TEXT:
            limit = "rows of plain text have no assistant: leave it out, or give conversations as `messages`"
            raise InvalidSpec("text.assistant_only_loss", "true", limit)

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """Return the row cut to the longest length, or divided where rows are packed."""
        tokens, labels = self._tokens(row)
        size = self._max_length
        starts = range(0, len(tokens), size) if self._packing else (0,)
        parts = [(tokens[at : at + size], labels[at : at + size]) for at in starts]
        # What comes first has nothing before it that it could be predicted from.
        learned = [sum(label != IGNORED for label in part[1][1:]) for part in parts]
        kept = [
            {"input_ids": part[0], "labels": part[1]}
            for part, count in zip(parts, learned, strict=True)
            if count
        ]
        return Encoded(
            rows=tuple(kept),
            tokens=len(tokens),
            learned=sum(learned),
            cut=len(tokens) > size and not self._packing,
            left_out="" if kept else self._why_nothing(tokens, labels),
        )

    def _tokens(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        if self._shape is RowShape.TEXT:
            tokens = self._words.text(row["text"])
            return tokens, tokens
        if self._shape is RowShape.MESSAGES:
            return self._conversation(row["messages"], row.get("tools"), 0)
        asked, said = self._words.pair(row, "completion")
        if self._assistant_only:
            if isinstance(row["prompt"], str):
                limit = "prompt and completion are plain text here and have no assistant: leave it out"
                raise InvalidSpec("text.assistant_only_loss", "true", limit)
            first = len(asked) if self._completion_only else 0
            return self._conversation([*row["prompt"], *row["completion"]], row.get("tools"), first)
        tokens = asked + said
        return tokens, [IGNORED] * len(asked) + said if self._completion_only else tokens

    def _conversation(
        self, turns: list[dict[str, Any]], tools: Any, first: int
    ) -> tuple[list[int], list[int]]:
        conversations = self._words.conversations
        if not self._assistant_only:
            tokens = conversations.ended(conversations.tokens(turns, tools), turns)
            return tokens, tokens
        tokens, mask = conversations.masked(turns, tools)
        ended = conversations.ended(tokens, turns)
        mask += [1] * (len(ended) - len(tokens))
        return ended, [
            token if said and index >= first else IGNORED
            for index, (token, said) in enumerate(zip(ended, mask, strict=True))
        ]

    def _why_nothing(self, tokens: list[int], labels: list[int]) -> str:
        masked_first = all(label == IGNORED for label in labels[1 : self._max_length])
        learns_later = any(label != IGNORED for label in labels[1:])
        return PROMPT_TOO_LONG if len(tokens) > 1 and masked_first and learns_later else NOTHING_TO_LEARN


class Seq2SeqEncoder:
    """Rows of `input_ids`, `attention_mask` and `labels` for a model with an encoder."""

    columns: tuple[str, ...] = ("input_ids", "attention_mask", "labels")

    def __init__(self, words: Words, shape: RowShape, max_length: int) -> None:
        """Encode rows of `shape`. Raises InvalidSpec where they have nothing to go from and to."""
        if shape is not RowShape.PROMPT_COMPLETION:
            limit = f"this model has an encoder and goes from a prompt to a completion, not from {shape}"
            raise InvalidSpec("dataset", f"rows of {shape}", limit)
        self._words = words
        self._max_length = max_length

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """Return the row, prompt and completion each cut to the longest length."""
        asked, said = self._words.pair(row, "completion")
        # Its encoder was taught texts that end.
        asked = asked if asked and asked[-1] == self._words.eos else [*asked, self._words.eos]
        size = self._max_length
        kept = asked[: size - 1] + asked[-1:] if len(asked) > size else asked
        return Encoded(
            rows=({"input_ids": kept, "attention_mask": [1] * len(kept), "labels": said[:size]},),
            tokens=max(len(asked), len(said)),
            learned=len(said[:size]),
            cut=max(len(asked), len(said)) > size,
        )


class PreferenceEncoder:
    """Rows of `prompt_ids`, `chosen_ids` and `rejected_ids`."""

    columns: tuple[str, ...] = ("prompt_ids", "chosen_ids", "rejected_ids")

    def __init__(self, words: Words, max_length: int) -> None:
        self._words = words
        self._max_length = max_length

    def encode(self, row: Mapping[str, Any]) -> Encoded:
        """Return the row, each answer cut to what its prompt leaves of the longest length."""
        asked, chosen = self._words.pair(row, "chosen")
        _, rejected = self._words.pair(row, "rejected")
        tokens, room = len(asked) + max(len(chosen), len(rejected)), self._max_length - len(asked)
        if room < 1:
            return Encoded(tokens=tokens, left_out=PROMPT_TOO_LONG)
        kept = {"prompt_ids": asked, "chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}
        if kept["chosen_ids"] == kept["rejected_ids"]:
            return Encoded(tokens=tokens, left_out=SAME_ANSWERS)
        learned = len(kept["chosen_ids"]) + len(kept["rejected_ids"])
        return Encoded(rows=(kept,), tokens=tokens, learned=learned, cut=tokens > self._max_length)
