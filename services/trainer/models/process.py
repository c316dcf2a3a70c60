"""The child process as the service sees it: asked once, heard to its end, and ended with its caller."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from typing import Any

from services.common.errors import BY_REASON
from services.trainer.environment import inherited_environment

_COMMAND = (sys.executable, "-m", "services.trainer.models.child")
# Enough to take its leftovers along.
_END_S = 3.0


async def ask(question: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Yield a child's answers. Close it: a child goes on for nobody.

    Raises:
        ServiceError: what the child found wrong.
        RuntimeError: it died.
    """
    child = await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=PIPE,
        stdout=PIPE,
        env=inherited_environment(),
        # A group of its own, so that it can be ended with all it has started.
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        # A token goes this way too: neither a command line nor an environment holds it.
        child.stdin.write(json.dumps(question).encode() + b"\n")
        async for line in child.stdout:
            yield _read(line)
        if await child.wait() != 0:
            raise RuntimeError(f"the process on the hub's cache ended with status {child.returncode}")
    finally:
        await _end(child)


def _read(line: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise BY_REASON[answer["error"]["reason"]](**answer["error"]["fields"])
    return answer


async def _end(child: Process) -> None:
    if child.returncode is not None:
        return
    try:
        _signal(child, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await child.wait()
    finally:
        # Also where the wait was cancelled.
        _signal(child, signal.SIGKILL)


def _signal(child: Process, number: signal.Signals) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
