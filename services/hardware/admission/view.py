"""The node as it is now, for whoever asks once or wants to be told of changes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from services.hardware.admission.promises import Promises
from services.hardware.admission.snapshot import Identity, Trainer, differs, snapshot
from services.hardware.inventory.survey import Survey
from services.hardware.resources import Node, Software

# Processes outside the platform tell nobody: how often to look for what they took.
_LOOK_S = 1.0


class NodeView:
    """Reads the node and notices changes."""

    def __init__(self, identity: Identity, survey: Survey, promises: Promises) -> None:
        self._identity = identity
        self._survey = survey
        self._promises = promises
        self._trainer: Trainer | None = None
        self._changed = asyncio.Event()

    @property
    def name(self) -> str:
        """`nodes/{node}`."""
        return self._identity.name

    async def read(self) -> Node:
        """Return the node as it is now."""
        inventory = await asyncio.to_thread(self._survey.take)
        return snapshot(
            self._identity,
            inventory,
            self._promises.book.holding(),
            self._trainer,
            knows_promises=self._promises.known,
        )

    def report_trainer(self, address: str, software: Software) -> None:
        """Remember where the trainer answers and what it can import."""
        self._trainer = Trainer(address, software)
        self.notify()

    def notify(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def read_after(self, told: Node, limit_s: float) -> Node:
        """Return the node once it differs noticeably from `told`, or when `limit_s` have passed."""
        end_s = time.monotonic() + limit_s
        while True:
            # Taken before the look: a change during it must not be slept over.
            changed = self._changed
            node = await self.read()
            left_s = end_s - time.monotonic()
            if differs(told, node) or left_s <= 0:
                return node
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), min(_LOOK_S, left_s))

    async def changes(self) -> AsyncIterator[Node]:
        """Yield the node at once, and again whenever it changed noticeably."""
        told = await self.read()
        yield told
        while True:
            node = await self.read_after(told, limit_s=60.0)
            if differs(told, node):
                told = node
                yield told
