"""Conversations as tokens, by the tokenizer's chat template, and which of them the assistant says."""

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from services.common.errors import InvalidSpec
from services.trainer.work.errors import BadItem
from services.trainer.work.text.templates import marks_assistant

Turns = list[dict[str, Any]]
Tools = list[Any] | None

# A template may write a line break or two after the token that ends a turn.
_TAIL = 4
_OFFER = "set text.chat_template to `chatml`, or to a template that marks the assistant with {% generation %}"


class Conversations:
    """One tokenizer's way with conversations.

    What the assistant says is known from the template's own marks, where it has them, and else from what each
    of its turns adds to the text before it. The second way needs a template that writes earlier turns the
    same whatever follows, which is looked at in every row: trl knows a few templates byte by byte and refuses
    all others.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.ends: set[int] = set()
        """The tokens that end an assistant's turn, as met so far."""
        self.without_end = 0
        """Conversations that the template ended with no such token, and that got the tokenizer's."""
        self._tokenizer = tokenizer
        self._marked = marks_assistant(str(tokenizer.chat_template or ""))
        self._eos = int(tokenizer.eos_token_id or 0)
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._may_end = special - {tokenizer.bos_token_id, tokenizer.pad_token_id} | {self._eos}

    def text(self, turns: Turns, tools: Tools, asks: bool = False) -> str:
        """Return a conversation as text; where it `asks`, up to where the assistant would go on.

        Raises:
            BadItem: the template refuses it.
        """
        rendered = self._apply(turns, tools, add_generation_prompt=asks, tokenize=False)
        return str(rendered)

    def tokens(self, turns: Turns, tools: Tools) -> list[int]:
        """Return a conversation's tokens. Raises BadItem."""
        return self.of_text(self.text(turns, tools))

    def of_text(self, text: str) -> list[int]:
        """Return the tokens of a rendered conversation, to which nothing is added: the template did."""
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def masked(self, turns: Turns, tools: Tools) -> tuple[list[int], list[int]]:
        """Return a conversation's tokens, and for each 1 where the assistant says it. Raises BadItem."""
        if self._marked:
            marked = self._apply(
                turns, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            return self._with_turn_ends(list(marked["input_ids"]), list(marked["assistant_masks"]))
        text = self.text(turns, tools)
        spans = self._spans(turns, tools, text)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        mask = [
            int(any(start < end_of and end > start_of for start_of, end_of in spans))
            for start, end in encoded["offset_mapping"]
        ]
        return self._with_turn_ends(list(encoded["input_ids"]), mask)

    def ended(self, tokens: list[int], turns: Turns) -> list[int]:
        """Return a conversation with an end: without one, whoever learns it never stops.

        Text gets its end token from whoever tokenises it; in a conversation it is the template's part.
        """
        if turns[-1]["role"] != "assistant":
            return tokens
        end = next((token for token in reversed(tokens[-_TAIL:]) if token in self._may_end), None)
        if end is None:
            self.without_end += 1
            tokens = [*tokens, self._eos]
        self.ends.add(self._eos if end is None else end)
        return tokens

    def asked_and_answered(self, prompt: Turns, answer: Turns, tools: Tools) -> tuple[str, str]:
        """Return as text what the model sees before it answers, and the answer after it.

        The first is what it will see in use: the prompt alone, with the beginning of a turn of its own.

        Raises:
            BadItem: the template refuses it, or writes the prompt otherwise once there is an answer.
        """
        asked, whole = self.text(prompt, tools, asks=True), self.text([*prompt, *answer], tools)
        if whole.startswith(asked):
            return asked, whole[len(asked) :]
        # Some templates begin an answer otherwise than they ask for one: with a thought left empty, say.
        alone = self.text(prompt, tools)
        if not (whole.startswith(alone) and asked.startswith(alone)):
            detail = f"the chat template writes its prompt otherwise once an answer follows: {_OFFER}"
            raise BadItem.of("a row", detail)
        heading, rest = asked[len(alone) :], whole[len(alone) :]
        same = next(
            (at for at, (one, other) in enumerate(zip(heading, rest, strict=False)) if one != other), 0
        )
        return asked, rest[same:]

    def _spans(self, turns: Turns, tools: Tools, text: str) -> list[tuple[int, int]]:
        """Return from where to where in `text` the assistant speaks."""
        spans = []
        for index, turn in enumerate(turns):
            if turn["role"] == "assistant":
                before = self.text(turns[:index], tools, asks=True)
                after = self.text(turns[: index + 1], tools)
                if not (text.startswith(before) and text.startswith(after) and len(before) < len(after)):
                    detail = (
                        "the chat template writes earlier turns otherwise once others follow, so what the "
                        f"assistant says cannot be told apart: {_OFFER}, or leave assistant_only_loss out"
                    )
                    raise BadItem.of("a row", detail)
                spans.append((len(before), len(after)))
        return spans

    def _with_turn_ends(self, tokens: list[int], mask: list[int]) -> tuple[list[int], list[int]]:
        """Mark the tokens that end the assistant's turns too, where a template's marks leave them out."""
        last = next((token for token in reversed(tokens[-_TAIL:]) if token in self._may_end), None)
        for index in range(1, len(tokens)):
            if tokens[index] == last and mask[index - 1] and not mask[index]:
                mask[index] = 1
        return tokens, mask

    def _apply(self, turns: Turns, tools: Tools, **options: Any) -> Any:
        if not self._tokenizer.chat_template:
            limit = (
                "these rows are conversations and the model's tokenizer has no chat template of its own: set "
                "it to `chatml`, or to the template that the model was made with"
            )
            raise InvalidSpec("text.chat_template", "absent", limit)
        try:
            return self._tokenizer.apply_chat_template(turns, tools=tools, **options)
        # A template is a program of somebody else's: it refuses by its own error, or stumbles over a value.
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            detail = f"the chat template refuses it: {error}; {_OFFER}, or change the row"
            raise BadItem.of("a row", detail) from error
