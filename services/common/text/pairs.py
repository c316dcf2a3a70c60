"""A prompt and its answers: two of a kind, cut where one repeats the other."""

from typing import Any

from services.common.text.badrow import BadRow, shown
from services.common.text.turns import ASSISTANT, Turn, read_conversation
from services.common.text.values import decoded, read_text

Side = str | list[Turn]
"""One column: plain text, or a conversation."""

_AS_TURN = '[{"role": "user", "content": ...}]'


def read_side(column: str, value: Any, *, answered: bool) -> Side:
    """Return a column that may hold text or a conversation. Raises BadRow."""
    value = decoded(value)
    if isinstance(value, str):
        return read_text(column, value)
    if isinstance(value, list | tuple | dict):
        return read_conversation(column, value, answered=answered)
    raise BadRow(column, "text or a conversation", shown(value))


def completed(prompt: Side, completion: Side) -> dict[str, Side]:
    """Return a prompt and its completion. Raises BadRow where one is text and the other a conversation."""
    _refuse_mixed("prompt", prompt, "completion", completion)
    # Text may well begin with its prompt's words; a conversation that begins with its prompt repeats it.
    rest = completion if isinstance(prompt, str) else _after("completion", prompt, completion)
    return {"prompt": prompt, "completion": rest}


def preferred(prompt: Side | None, chosen: Side, rejected: Side) -> dict[str, Side]:
    """Return a prompt and two answers to it, all of one kind.

    Without a prompt it is what both answers begin with. Answers that repeat the prompt are cut: trl would
    train on it twice.

    Raises:
        BadRow: they are of different kinds, there is no prompt, or nothing follows it.
    """
    _refuse_mixed("chosen", chosen, "rejected", rejected)
    if isinstance(prompt, str) and isinstance(chosen, list) and isinstance(rejected, list):
        if not all(_asks(turns, prompt) for turns in (chosen, rejected)):
            raise BadRow("prompt", f"a conversation ({_AS_TURN}), as chosen is one", "text")
        # The prompt only repeats what the conversations say in full.
        prompt = None
    if prompt is None:
        return _divided(chosen, rejected)
    _refuse_mixed("prompt", prompt, "chosen", chosen)
    if isinstance(prompt, str) and not all(_goes_on(side, prompt) for side in (chosen, rejected)):
        # One answer alone may well begin with the words of a short prompt.
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    answers = {"chosen": _after("chosen", prompt, chosen), "rejected": _after("rejected", prompt, rejected)}
    return {"prompt": prompt, **answers}


def _refuse_mixed(first_column: str, first: Side, second_column: str, second: Side) -> None:
    if type(first) is not type(second):
        kind, other = _kind(first), _kind(second)
        raise BadRow(second_column, f"{kind}, as {first_column} is", other)


def _kind(side: Side) -> str:
    return "text" if isinstance(side, str) else "a conversation"


def _asks(turns: list[Turn], prompt: str) -> bool:
    asked = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
    return bool(asked) and asked.strip() == prompt.strip()


def _goes_on(answer: Side, prompt: str) -> bool:
    """Say whether a text repeats a prompt and goes on with another word."""
    if not isinstance(answer, str) or not answer.startswith(prompt):
        return False
    return not answer[len(prompt) - 1 : len(prompt) + 1].isalnum()


def _after(column: str, prompt: Side, answer: Side) -> Side:
    """Return what follows the prompt in an answer that repeats it; another answer as it is."""
    return _answer(column, answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer)


def _answer(column: str, rest: Side) -> Side:
    """Return what is left of an answer without its prompt. Raises BadRow where that is none."""
    said = rest.strip() if isinstance(rest, str) else any(turn["role"] == ASSISTANT for turn in rest)
    if not said:
        raise BadRow(column, "an answer after the prompt", "the prompt alone")
    return rest


def _divided(chosen: Side, rejected: Side) -> dict[str, Side]:
    """Return two answers without what they begin with, which is their prompt."""
    end = _common(chosen, rejected)
    if not end:
        limit = "a prompt, in a column of its own or as what chosen and rejected begin with"
        raise BadRow("prompt", limit, "answers that begin differently")
    answers = {"chosen": _answer("chosen", chosen[end:]), "rejected": _answer("rejected", rejected[end:])}
    return {"prompt": chosen[:end], **answers}


def _common(chosen: Side, rejected: Side) -> int:
    """Return how many turns, or letters up to a word's end, both begin with; each keeps an answer."""
    most = min(len(chosen), len(rejected)) - 1
    end = next((at for at in range(most) if chosen[at] != rejected[at]), most)
    if isinstance(chosen, str):
        # Within a word, tokens would be cut; and a prompt's last space belongs to the word that follows.
        words = chosen[: end + 1].rsplit(maxsplit=1)
        end = len(words[0].rstrip()) if len(words) > 1 else 0
    return end
