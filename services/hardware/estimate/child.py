"""The process that reads what strangers wrote: `python -m services.hardware.estimate.child`.

It answers frames on its standard input, one at a time, until that ends. It holds no credential, may use
little memory, and never outlives its service.
"""

import ctypes
import json
import logging
import os
import resource
import signal
import sys
from dataclasses import fields
from typing import BinaryIO

from services.common import logs
from services.common.errors import ServiceError
from services.common.settings import CommonSettings
from services.hardware.estimate.frames import Kind, pack, read
from services.hardware.units import GIB

log = logging.getLogger(__name__)

# Of data, torch's own 1.6 included: a model without memory needs little more.
_MEMORY_BYTES = 6 * GIB
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve requests until the end of the input."""
    # The kernel ends it with its service, also in the middle of an import or of a request.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    requests, answers = sys.stdin.buffer, _private_stdout()
    settings = CommonSettings()
    logs.configure("estimator-child", settings.log_format, settings.log_level)
    # Ctrl-C reaches the whole terminal; this process ends when its service closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    # Imported before the service is told that this process is ready.
    from services.hardware.estimate.sources.reading import Places
    from services.hardware.estimate.wire import answer_chat, answer_estimate, answer_resolve

    places = Places.of(settings)
    handlers = {
        Kind.RESOLVE: lambda body: answer_resolve(body, places),
        Kind.ESTIMATE: answer_estimate,
        Kind.CHAT: answer_chat,
    }
    _send(answers, Kind.READY)
    while (frame := read(requests)) is not None:
        kind, body = frame
        _send(answers, Kind.STARTED)
        try:
            _send(answers, Kind.ANSWER, handlers[kind](body))
        except ServiceError as error:
            _send(answers, Kind.REFUSAL, _refusal(error))


def _private_stdout() -> BinaryIO:
    """Return the pipe to the service; whatever a library prints goes to the log instead."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def _send(answers: BinaryIO, kind: Kind, body: bytes = b"") -> None:
    answers.write(pack(kind, body))
    answers.flush()


def _refusal(error: ServiceError) -> bytes:
    values = {item.name: getattr(error, item.name) for item in fields(error)}  # type: ignore[arg-type]
    refusal = {"reason": error.reason, "fields": values, "message": str(error)}
    return json.dumps(refusal, default=str).encode()


if __name__ == "__main__":
    main()
