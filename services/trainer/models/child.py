"""Works on the hub's cache: `python -m services.trainer.models.child`, a child of the trainer.

It reads one question, a line of JSON, from its standard input and answers on its standard output, in lines:

    {"do": "list"}                                               {"model": {…}} for each
    {"do": "pull", "repository": …, "revision": …, "token": …}   {"progress": {…}}, …, {"model": {…}}
    {"do": "remove", "repository": …, "revisions": […]}          {"freed_bytes": …}

or, where that cannot be done, with `{"error": {"reason": …, "fields": {…}}}`. It ends with its service, and
when it is asked to; a download then goes on with the next child.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from types import FrameType
from typing import Any, BinaryIO

from services.common.errors import ServiceError
from services.trainer.models.records import PullProgress

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer the question on standard input."""
    signal.signal(signal.SIGTERM, _end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    question, answers = json.loads(sys.stdin.buffer.readline()), _private_stdout()
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        for answer in _answers(question, lambda progress: _say(answers, {"progress": asdict(progress)})):
            _say(answers, answer)
    except ServiceError as error:
        values = {item.name: getattr(error, item.name) for item in fields(error)}  # type: ignore[arg-type]
        _say(answers, {"error": {"reason": error.reason, "fields": values}})


def _answers(question: dict[str, Any], tell: Any) -> Iterator[dict[str, Any]]:
    # Imported here: the library takes a second, and a child that is not wanted any more can end before.
    from services.trainer.models import cache

    repository = question.get("repository", "")
    match question["do"]:
        case "list":
            yield from ({"model": asdict(model)} for model in cache.cached_models())
        case "remove":
            yield {"freed_bytes": cache.remove(repository, question["revisions"])}
        case "pull":
            from services.trainer.models.pulling import pull

            tell(PullProgress())
            commit = pull(repository, question["revision"], question["token"], tell)
            here = (model for model in cache.cached_models() if model.revision == commit)
            yield from ({"model": asdict(model)} for model in here if model.repository == repository)


def _say(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer, default=str).encode() + b"\n")
    answers.flush()


def _private_stdout() -> BinaryIO:
    """Return the pipe to the service; whatever a library prints goes to the log instead."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def _end(signum: int, frame: FrameType | None) -> None:
    # An exception, so that the library removes what the next child could not use.
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
