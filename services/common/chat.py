"""A conversation with a language model: 1:1 with chat.proto of weighbridge.common.v1, which says more."""

from dataclasses import dataclass
from enum import StrEnum


class ChatRole(StrEnum):
    """Who says something."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class ChatMessage:
    """One contribution to a conversation."""

    role: ChatRole
    content: str


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How a language model goes on with a text; what is None or 0 has the contract's default."""

    max_new_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """The end of an answer."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float
    first_token_s: float
