"""All conversations of this trainer: each inside memory that its node holds, and none longer than its call.

Nothing of a conversation is written down here. Its reservation, in the node's journal, is the note that a
process may exist: a restarted trainer knows of no conversation, so it ends what is left of each that the node
names, and gives the memory back.
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.common.errors import PeerUnavailable, ServiceError, WrongState
from services.common.names import is_chat_run
from services.common.spec_wire import parse_resolved
from services.common.specs import DeviceKind, ResolvedSpec
from services.trainer.approvals import Claims, check_approval, check_in_time
from services.trainer.chats.process import ChatProcess, end_leftovers
from services.trainer.chats.records import Answer, Opening, Said
from services.trainer.chats.talk import Report, Talk
from services.trainer.finishing import finished
from services.trainer.node import DeviceAmount, Reservation, ReservationState
from services.trainer.runs.shared import Shared

log = logging.getLogger(__name__)


@dataclass
class _Open:
    """A conversation that has, or is about to have, memory."""

    run: str
    process: ChatProcess | None = None


class Chats:
    """The conversations, by the run that their memory is reserved for."""

    def __init__(self, root: Path, shared: Shared, command: Sequence[str], idle_s: float) -> None:
        self._root = root
        self._shared = shared
        self._command = tuple(command)
        self._idle_s = idle_s
        self._open: dict[str, _Open] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def end_leftovers(self) -> None:
        """End the children of a service that died; their memory is given back by `reconcile`."""
        await asyncio.to_thread(end_leftovers, self._root)
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    async def talk(self, opening: Opening, node: str, said: AsyncIterator[Said]) -> AsyncGenerator[Answer]:
        """Load a model and yield its answers to what is said.

        However this ends, the process is gone and the memory given back (at the latest when the node answers
        again). The order is that: nothing computes in memory that is free.

        Raises:
            ApprovalRefused: it is not exactly what `node`, this trainer's, has approved.
            StaleAttempt, NoReservation: its reservation is over.
            PeerUnavailable: the node cannot be asked, or its lease has ended.
            InvalidModel, NotFound: the artifact is no language model, or is gone.
            ServiceError: whatever else ends a conversation; see `Talk`.
        """
        token, claims = check_approval(opening.approval, opening.run, node, opening.resolved_spec)
        check_in_time(claims)
        if self._shared.lease.ended:
            raise PeerUnavailable("the gateway")
        spec = parse_resolved(opening.resolved_spec)
        digest = spec.model.artifact_digest
        async with self._held(token, claims) as chat, self._shared.cache.pinned([digest]):
            artifact = await self._shared.cache.tree(digest)
            directory = self._root / claims.run.removeprefix("runs/")
            gpus = [device for device in claims.amounts if device not in ("host", "disk")]
            chat.process = await ChatProcess.start(self._command, directory, gpus)
            await chat.process.open(_question(opening, claims, spec, artifact))
            talk = Talk(chat.process, said, self._reporter(claims.run), self._idle_s)
            async with aclosing(talk.answers()) as answers:
                async for answer in answers:
                    yield answer

    async def reconcile(self, reservations: Iterable[Reservation]) -> None:
        """Give back what the node holds for conversations that are not open here."""
        for reservation in reservations:
            run = reservation.run
            active = reservation.state is ReservationState.ACTIVE
            if not (active and is_chat_run(run)) or run in self._open:
                continue
            log.warning("releasing a chat that is over", extra={"run": run})
            # One that does not die keeps its memory.
            if await asyncio.to_thread(end_leftovers, self._root, run.removeprefix("runs/")):
                await self._shared.node.release(run)

    async def close(self) -> None:
        """Wait for what is ending; conversations end with their calls, before this."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.to_thread(end_leftovers, self._root)

    @asynccontextmanager
    async def _held(self, token: str, claims: Claims) -> AsyncIterator[_Open]:
        """Have a reservation active inside the block, and nothing of the conversation left behind it."""
        if claims.run in self._open:
            raise WrongState(claims.run, "open already", "a chat of its own")
        # Known before its memory is active: `reconcile` leaves it alone.
        chat = self._open[claims.run] = _Open(claims.run)
        try:
            await self._shared.node.activate(claims.run, token, claims.spec_sha256)
            yield chat
        finally:
            # Also where the node's answer got lost, and when the caller has left.
            await finished(self._end(chat))

    async def _end(self, chat: _Open) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ending.add(task)
        try:
            if chat.process is not None:
                await chat.process.end()
            await self._shared.node.release(chat.run)
        except ServiceError as error:
            log.warning("not released yet", extra={"run": chat.run, "error": str(error)})
        finally:
            self._ending.discard(task)
            # Unknown from here on: what could not be released is released once the node names it.
            del self._open[chat.run]

    def _reporter(self, run: str) -> Report:
        async def report(used: Sequence[DeviceAmount]) -> None:
            if used:
                await self._shared.node.report_usage(run, tuple(used))

        return report


def _question(opening: Opening, claims: Claims, spec: ResolvedSpec, artifact: Path) -> dict[str, Any]:
    text = spec.spec.text
    return {
        "artifact_dir": str(artifact),
        "context_tokens": (text.max_length if text is not None else None) or 0,
        "device": "cuda" if claims.device is DeviceKind.CUDA else "cpu",
        "reserved": {device: size for device, size in claims.amounts.items() if device != "disk"},
        "options": asdict(opening.options),
        "system_prompt": opening.system_prompt,
    }
