"""Texts, and prompts with their answers, as tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from services.trainer.work.text.conversations import Conversations


@dataclass
class Words:
    """A tokenizer, and what is remarkable about what it did."""

    tokenizer: PreTrainedTokenizerBase
    merged: int = 0
    """Rows in which the end of the prompt and the beginning of the answer would have been one token."""
    conversations: Conversations = field(init=False)

    def __post_init__(self) -> None:
        self.conversations = Conversations(self.tokenizer)

    @property
    def eos(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id or 0)

    def text(self, text: str) -> list[int]:
        """Return the tokens of a text that ends."""
        return self._ended(self.tokenizer(text)["input_ids"])

    def pair(self, row: Mapping[str, Any], answer: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a row's prompt and those of one of its answers.

        The prompt's are those of the prompt alone, as the model will see it in use. Where its end and the
        answer's beginning would be one token, each is made tokens by itself: trl drops that end instead.

        Raises:
            BadItem: the chat template refuses the row.
        """
        prompt, said, tools = row["prompt"], row[answer], row.get("tools")
        if isinstance(prompt, str):
            asked = self._without_end(self.tokenizer(prompt)["input_ids"], prompt)
            whole = self.tokenizer(prompt + said)["input_ids"]
            return asked, self._ended(self._after(asked, whole, said))
        asked_text, said_text = self.conversations.asked_and_answered(prompt, said, tools)
        asked = self.conversations.of_text(asked_text)
        whole = self.conversations.of_text(asked_text + said_text)
        return asked, self.conversations.ended(self._after(asked, whole, said_text), said)

    def _after(self, asked: list[int], whole: list[int], said: str) -> list[int]:
        if whole[: len(asked)] == asked:
            return whole[len(asked) :]
        self.merged += 1
        return self.conversations.of_text(said)

    def _ended(self, tokens: list[int]) -> list[int]:
        return tokens if tokens and tokens[-1] == self.eos else [*tokens, self.eos]

    def _without_end(self, tokens: list[int], text: str) -> list[int]:
        # Some tokenizers end whatever they are given.
        ended = bool(tokens) and tokens[-1] == self.eos and not text.endswith(str(self.tokenizer.eos_token))
        return tokens[:-1] if ended else tokens
