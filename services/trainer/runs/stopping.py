"""Stopping a run: the intent is on disk before anybody is told; then SIGTERM, some time, SIGKILL."""

import asyncio
import logging
import time

from services.trainer.engines.engine import Engine
from services.trainer.runs.directory import RunDirectory, StopIntent, StopReason

log = logging.getLogger(__name__)

# How long a worker that has written its outcome may take to be gone.
_EXIT_S = 30.0
_AGAIN_S = 5.0


class Stop:
    """Whether, why and how fast one run is to stop."""

    def __init__(self, directory: RunDirectory) -> None:
        """Read what was asked before the last restart. Blocks."""
        self._directory = directory
        self._asking = asyncio.Lock()
        self.asked = asyncio.Event()
        self.intent = directory.intent()
        if self.intent is not None:
            self.asked.set()

    async def ask(self, intent: StopIntent) -> None:
        """Write an intent down. A request overrules a limit, and the shorter grace counts."""
        async with self._asking:
            # Two may ask: a person in a hurry after the limit, or twice.
            if self.intent is not None:
                reasons = {self.intent.reason, intent.reason}
                reason = StopReason.REQUEST if StopReason.REQUEST in reasons else intent.reason
                intent = StopIntent(reason=reason, grace_s=min(self.intent.grace_s, intent.grace_s))
            if intent != self.intent:
                await asyncio.to_thread(self._directory.write_intent, intent)
            self.intent = intent
            self.asked.set()

    def end(self, grace_s: float) -> None:
        """Stop the run because the node's lease has ended, unless it is to stop already."""
        # Not written down: the lease is, and a full disk must not keep a run going.
        if self.intent is None:
            self.intent = StopIntent(reason=StopReason.NODE_LEASE, grace_s=grace_s)
            self.asked.set()

    async def ask_after(self, delay_s: float, intent: StopIntent) -> None:
        """Ask once `delay_s` have passed."""
        await asyncio.sleep(delay_s)
        while True:
            try:
                return await self.ask(intent)
            except OSError as error:
                # A full disk: of all runs, one that is over its time must not go on for want of a note.
                log.warning("cannot write that a run is to stop", extra={"error": str(error)})
                await asyncio.sleep(_AGAIN_S)


class Escort:
    """Sees a worker out that is to stop, or that stays although its work is done."""

    def __init__(self, directory: RunDirectory, engine: Engine, stop: Stop) -> None:
        self._directory = directory
        self._engine = engine
        self._stop = stop
        self._asked_at_s: float | None = None
        self._done_at_s: float | None = None

    def attend(self) -> None:
        """Do what is due; call it again and again while the worker lives. Blocks."""
        now_s = time.monotonic()
        if self._stop.intent is not None:
            if self._asked_at_s is None:
                # Once, and once more after a restart of the service: a worker takes it as the same request.
                self._asked_at_s = now_s
                self._engine.terminate(self._directory)
            if now_s - self._asked_at_s >= self._stop.intent.grace_s:
                self._engine.kill(self._directory)
        elif self._directory.outcome_file.exists():
            self._done_at_s = self._done_at_s or now_s
            if now_s - self._done_at_s >= _EXIT_S:
                self._engine.kill(self._directory)
