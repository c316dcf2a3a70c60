"""Threads for what moves many bytes: the event loop's own few stay free, whatever the store does."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

_AT_ONCE = 16


class Transfers:
    """Runs blocking transfers to and from the store."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, transfer: Callable[[], T]) -> T:
        """Return what `transfer` returns. Cancelling the wait does not stop it: it leaves nothing in part."""
        outcome: Future[T] = Future()

        def carry_out() -> None:
            # Told that it runs, a future cannot be cancelled any more, and takes the result nobody awaits.
            outcome.set_running_or_notify_cancel()
            with _ErrorsInto(outcome):
                outcome.set_result(transfer())

        async with self._slots:
            # A daemon, unlike those of an executor: a store that hangs must not keep the service from ending.
            threading.Thread(target=carry_out, name="transfer", daemon=True).start()
            return await asyncio.wrap_future(outcome)


class _ErrorsInto:
    """Hands what its block raises to whoever awaits the future."""

    def __init__(self, outcome: Future[T]) -> None:
        self._outcome = outcome

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self._outcome.set_exception(error)
        return True
