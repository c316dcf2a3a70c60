"""A conversation so far, as the text that the model goes on with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from services.common.chat import ChatMessage, ChatRole
from services.common.errors import InvalidModel, InvalidRequest, PromptTooLong

_NO_TEMPLATE = (
    "the model has no chat template: each message is a text that it goes on with, "
    "and it sees nothing of the messages before"
)


class Conversation:
    """Holds what was said, and makes prompts of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str, context_tokens: int) -> None:
        """Begin one. Raises InvalidRequest where the model's template has no place for a system prompt."""
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        self._system_prompt = system_prompt
        system = [ChatMessage(role=ChatRole.SYSTEM, content=system_prompt)] if system_prompt else []
        self._said: list[ChatMessage] = system
        if system and tokenizer.chat_template:
            self._try_out(system)

    @property
    def notices(self) -> tuple[str, ...]:
        """What whoever talks should know."""
        return () if self._tokenizer.chat_template else (_NO_TEMPLATE,)

    def prompt(self, text: str) -> torch.Tensor:
        """Return the tokens (1 x n) of the conversation with a new message of the user.

        Raises:
            PromptTooLong: they leave no room for an answer.
            InvalidRequest: the model's template cannot express them.
        """
        tokens = self._tokens(text)
        count = tokens.shape[-1]
        if count >= self._context_tokens:
            raise PromptTooLong(limit=self._context_tokens, actual=count)
        if not count:
            raise InvalidRequest({"message.content": "the model's tokenizer makes no token of it: say more"})
        return tokens

    def remember(self, text: str, answer: str) -> None:
        """Take a message and its answer into the conversation."""
        # A message that was stopped before its answer began is as if it had not been said: most templates
        # insist on turns.
        if answer:
            self._said.append(ChatMessage(role=ChatRole.USER, content=text))
            self._said.append(ChatMessage(role=ChatRole.ASSISTANT, content=answer))

    def _tokens(self, text: str) -> torch.Tensor:
        if not self._tokenizer.chat_template:
            whole = f"{self._system_prompt}\n\n{text}" if self._system_prompt else text
            return _ids(self._tokenizer(whole, return_tensors="pt"))
        try:
            return self._rendered([*self._said, ChatMessage(role=ChatRole.USER, content=text)])
        except TemplateError as error:
            raise InvalidRequest({"message": f"the model's chat template refuses it: {error}"}) from None

    def _try_out(self, system: Sequence[ChatMessage]) -> None:
        try:
            self._rendered([*system, ChatMessage(role=ChatRole.USER, content="Hello")])
        except TemplateError as error:
            fault = f"the model's chat template refuses it: {error}"
            raise InvalidRequest({"opening.system_prompt": fault}) from None

    def _rendered(self, messages: Sequence[ChatMessage]) -> torch.Tensor:
        plain = [{"role": message.role.value, "content": message.content} for message in messages]
        rendered: Any = self._tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return _ids(rendered)


def read_tokenizer(artifact: Path) -> PreTrainedTokenizerBase:
    """Return an artifact's tokenizer. Raises InvalidModel where it has none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(artifact, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        # The node's own paths are nobody's business.
        detail = f"its tokenizer cannot be loaded: {error}".replace(str(artifact), "the artifact")
        raise InvalidModel("the artifact", detail) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _ids(encoded: Any) -> torch.Tensor:
    ids: torch.Tensor = encoded["input_ids"].long()
    return ids
