"""The child process of a conversation, as the service sees it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from pydantic import TypeAdapter, ValidationError

from services.common.chat import TurnEnd
from services.common.errors import BY_REASON, Code, RemoteError, ServiceError
from services.common.failures import Failure
from services.trainer.chats.records import Answer, Message, Ready, Refusal, Said, Text
from services.trainer.environment import inherited_environment
from services.trainer.node import DeviceAmount

MARK = "WEIGHBRIDGE_CHAT_DIR"
# Far beyond a line of the child's: pieces of text are words.
_LINE_BYTES = 1 << 20
_READERS: Mapping[str, TypeAdapter[Any]] = {
    "ready": TypeAdapter(Ready),
    "turn_end": TypeAdapter(TurnEnd),
    "refusal": TypeAdapter(Failure),
    "error": TypeAdapter(Failure),
}
_USAGE = TypeAdapter(list[dict[str, Any]])


class ChatProcess:
    """A child that has been started; `end` must be called, however the conversation ends."""

    def __init__(self, process: Process, directory: Path) -> None:
        self._process = process
        self._directory = directory

    @classmethod
    async def start(cls, command: Sequence[str], directory: Path, gpus: Sequence[str]) -> "ChatProcess":
        """Start a child in a directory of its own. It sees the GPUs named alone."""
        with await asyncio.to_thread(_new_log, directory) as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(directory),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env={
                    **inherited_environment(),
                    "HF_HUB_OFFLINE": "1",
                    "CUDA_VISIBLE_DEVICES": ",".join(gpus),
                    MARK: str(directory),
                },
                limit=_LINE_BYTES,
                # A group of its own, so that it can be ended with all it has started.
                start_new_session=True,
            )
        return cls(process, directory)

    async def open(self, question: Mapping[str, Any]) -> None:
        """Tell the child what to load."""
        await self._write(question)

    async def say(self, said: Said) -> None:
        """Pass on what the user said."""
        await self._write({"message": said.content} if isinstance(said, Message) else {"stop": True})

    def say_no_more(self) -> None:
        """Let the child end once it has answered everything."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def answers(self) -> AsyncGenerator[Answer]:
        """Yield what the child says, until it has nothing more to say.

        Raises:
            ServiceError: what ended the conversation, in the child's words.
            RemoteError: the child died.
        """
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield _read(line)
        status = await self._process.wait()
        if status:
            raise RemoteError("WORKER_LOST", Code.ABORTED, f"{_died(status)}: begin again")

    def usage(self) -> tuple[DeviceAmount, ...]:
        """Return what the child last said that it uses. Blocks."""
        try:
            peaks = _USAGE.validate_json((self._directory / "usage.json").read_bytes())
        except (OSError, ValidationError):
            return ()
        return tuple(DeviceAmount(device=peak["device"], used_bytes=peak["used_bytes"]) for peak in peaks)

    async def end(self) -> None:
        """Kill the child's group and wait until nothing of it is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def _write(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        # A child that has died is told about by `answers`, which knows how.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            await self._process.stdin.drain()


def _new_log(directory: Path) -> BinaryIO:
    directory.mkdir(parents=True)
    return (directory / "chat.log").open("wb")


def end_leftovers(root: Path, name: str = "") -> bool:
    """Kill the children whose directory is below `root` (or is that of one name); say whether none is left.

    Blocks. Process ids are never trusted, since the system gives them out again: a child is known by a mark.
    """
    mark = str(root / name) if name else f"{root}/"
    left = [process for process in psutil.process_iter() if _is_marked(process, mark, exact=bool(name))]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, alive = psutil.wait_procs(left, timeout=1.0)
    return not alive


def _is_marked(process: psutil.Process, mark: str, *, exact: bool) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        found = process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return False
    return found == mark if exact else found.startswith(mark)


def _read(line: bytes) -> Answer:
    said: dict[str, Any] = json.loads(line)
    (kind, body), *_ = said.items()
    if kind == "text":
        return Text(body)
    read = _READERS[kind].validate_python(body)
    if kind == "error":
        raise _error(read)
    return Refusal(read) if kind == "refusal" else read


def _error(failure: Failure) -> ServiceError:
    # The child's reasons are those of the contract; its messages and keys pass through as they are.
    known = BY_REASON.get(failure.reason)
    code = Code.ABORTED if known is None else known.code
    return RemoteError(failure.reason, code, failure.message, failure.metadata)


def _died(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the chat's process was killed, by the system for want of memory or by an administrator"
    return f"the chat's process died ({f'signal {-status}' if status < 0 else f'exit status {status}'})"
