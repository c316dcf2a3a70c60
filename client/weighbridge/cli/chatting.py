"""`weighbridge chat`: talk to the language model that a job made."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from weighbridge.chat import Chat, ChatOptions
from weighbridge.cli import output, words
from weighbridge.cli.session import JsonFlag, session
from weighbridge.common.v1.chat_pb2 import FinishReason
from weighbridge.exceptions import InvalidRequest

_PROMPT = "> "
_ENDS = {
    FinishReason.FINISH_REASON_LENGTH: ", as long as it may be",
    FinishReason.FINISH_REASON_CANCELLED: ", stopped",
}


def chat(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job that made a language model (sft, dpo).")],
    message: Annotated[
        list[str] | None,
        typer.Option("--message", "-m", help="Say this and print the answer; may be repeated."),
    ] = None,
    system: Annotated[str, typer.Option(help="What holds for the whole conversation.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=0, help="At most so many tokens an answer. 0: 512.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=10, help="How freely it answers; 0: always alike. [0.7]")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only the likeliest words. [0.95]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answers.")] = None,
    context: Annotated[
        int, typer.Option(min=0, help="Tokens that the conversation may have. 0: 4096, or the model's own.")
    ] = 0,
    device: Annotated[str, typer.Option(help="`cpu` or `cuda`. Default: as the job was trained.")] = "",
    json: JsonFlag = False,
) -> None:
    """Talk to the language model that a job made.

    In a terminal it asks for what you want to say; Ctrl-C stops an answer, Ctrl-D ends the chat. In a script,
    say it with --message, or pipe one message into it. Memory is reserved while the chat lasts.
    """
    if device not in ("", "cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is neither cpu nor cuda", param_hint="--device")
    options = ChatOptions(
        system_prompt=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        context_tokens=context,
        device=device,
    )
    asking = not message and sys.stdin.isatty()
    with session(ctx).client().chat(job, options) as opened:
        view = _View(opened, as_json=session(ctx).json)
        view.show_ready()
        for text in _typed() if asking else (message or _piped()):
            view.show_answer(text, go_on=asking)


class _View:
    """Prints a chat: answers to standard output, everything about them beside it."""

    def __init__(self, opened: Chat, *, as_json: bool) -> None:
        self._chat = opened
        self._json = as_json

    def show_ready(self) -> None:
        ready = self._chat.ready
        if self._json:
            output.json_line({"ready": output.plain(ready)})
            return
        held = f"{words.size(ready.reserved_bytes)} reserved, {ready.context_tokens} tokens of context"
        output.note(f"{ready.node}: {held}")
        for notice in ready.notices:
            output.note(notice)

    def show_answer(self, text: str, *, go_on: bool) -> None:
        """Say something and print the answer; `go_on`: neither a refusal nor Ctrl-C ends the chat."""
        pieces = self._chat.send(text)
        try:
            self._print(pieces)
        except KeyboardInterrupt:
            self._chat.stop()
            # What was written on the way here still counts; a second Ctrl-C ends the chat.
            self._print(self._chat.rest())
            if not go_on:
                raise
        except InvalidRequest as error:
            if not go_on:
                raise
            output.failed(error, as_json=self._json)
            return
        self._show_end()

    def _print(self, pieces: Iterator[str]) -> None:
        for piece in pieces:
            if self._json:
                output.json_line({"text": piece})
                continue
            # As it comes: neither wrapped nor taken for markup.
            sys.stdout.write(piece)
            sys.stdout.flush()

    def _show_end(self) -> None:
        end = self._chat.last_turn
        if end is None:
            return
        if self._json:
            output.json_line({"turn_end": output.plain(end)})
            return
        sys.stdout.write("\n")
        sys.stdout.flush()
        how = _ENDS.get(end.finish_reason, "")
        output.note(
            f"{words.many(end.completion_tokens, 'token')}, {end.tokens_per_second:.1f} a second{how}"
        )


def _typed() -> Iterator[str]:
    """Yield what is typed, line by line, until Ctrl-D."""
    # Only imported: lines can be edited then, and earlier ones called back.
    import readline  # noqa: F401

    while True:
        try:
            text = input(_PROMPT)
        except EOFError:
            sys.stdout.write("\n")
            return
        if text.strip():
            yield text


def _piped() -> list[str]:
    """Return all of standard input as one message."""
    text = sys.stdin.read().rstrip("\n")
    return [text] if text.strip() else []
