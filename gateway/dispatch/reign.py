"""Becoming the dispatcher, staying it, and noticing when one is not any more."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gateway.ledger import dispatcher
from gateway.ledger.dispatcher import Deposed
from gateway.ledger.engine import Ledger, Transaction, Work

log = logging.getLogger(__name__)
T = TypeVar("T")
_PAUSE_S = 1.0


class Reign:
    """One epoch of this process as the dispatcher."""

    def __init__(self, ledger: Ledger, epoch: int) -> None:
        self.ledger = ledger
        self.epoch = epoch

    async def write(self, work: Work[T]) -> T:
        """Write to the ledger as `Ledger.write` does. Raises Deposed, and nothing is written."""

        async def fenced(tx: Transaction) -> T:
            await dispatcher.check(tx, self.epoch)
            return await work(tx)

        return await self.ledger.write(fenced)


Duty = Callable[[Reign], Awaitable[None]]


class Dispatcher:
    """Waits until nobody else dispatches, and then does its duties until somebody else does."""

    def __init__(self, ledger: Ledger, ttl_s: float, duties: Sequence[Duty]) -> None:
        self._ledger = ledger
        self._ttl_s = ttl_s
        self._duties = duties
        self._holder = uuid.uuid4().hex

    async def run(self) -> None:
        """Dispatch whenever it is this process's turn, until cancelled."""
        while True:
            epoch = await self._ledger.write(lambda tx: dispatcher.take(tx, self._holder, self._ttl_s))
            if epoch is None:
                await asyncio.sleep(self._ttl_s / 4)
                continue
            log.info("dispatching", extra={"epoch": epoch})
            await self._rule(Reign(self._ledger, epoch))

    async def _rule(self, reign: Reign) -> None:
        tasks = [asyncio.ensure_future(duty(reign)) for duty in (self._stay, *self._duties)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._ledger.write(lambda tx: dispatcher.give_up(tx, reign.epoch))
        for task in done:
            _report(task)
        # A duty that fails at once must not be begun again at once.
        await asyncio.sleep(_PAUSE_S)

    async def _stay(self, reign: Reign) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            await self._ledger.write(lambda tx: dispatcher.renew(tx, reign.epoch, self._ttl_s))


def _report(task: asyncio.Future[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        error = task.exception()
        if isinstance(error, Deposed):
            log.warning("another replica dispatches now")
        elif error is not None:
            log.error("a duty of the dispatcher failed; it begins anew", exc_info=error)
