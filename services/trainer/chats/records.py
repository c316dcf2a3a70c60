"""What is said in a conversation, on either side: parts of weighbridge.trainer.v1, field by field."""

from dataclasses import dataclass, field

from services.common.chat import GenerationOptions, TurnEnd
from services.common.failures import Failure
from services.trainer.node import Approval


@dataclass(frozen=True, kw_only=True)
class Opening:
    """An approved conversation."""

    run: str
    approval: Approval
    resolved_spec: bytes
    options: GenerationOptions = field(default_factory=GenerationOptions)
    system_prompt: str = ""


@dataclass(frozen=True)
class Message:
    """What the user says."""

    content: str


@dataclass(frozen=True)
class Stop:
    """The answer that is being written is not wanted any more."""


Said = Message | Stop


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The model is loaded."""

    context_tokens: int
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """The next piece of an answer."""

    text: str


@dataclass(frozen=True)
class Refusal:
    """There is no answer to this message; the conversation stands as before it."""

    failure: Failure


Answer = Ready | Text | TurnEnd | Refusal
