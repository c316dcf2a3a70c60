"""What a test has a fake do instead of answering: refuse, or stand still until told to go on."""

import asyncio
from collections import defaultdict, deque
from typing import Any

import grpc

from services.common.errors import ServiceError
from services.common.rpc import DETAILS_KEY, status_of


class Gate:
    """A point at which a call stands still."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.open.wait()


class Faults:
    """By method, what the next calls meet, in order."""

    def __init__(self) -> None:
        self._planned: dict[str, deque[ServiceError | Gate]] = defaultdict(deque)

    def refuse(self, method: str, *errors: ServiceError) -> None:
        """Answer the next calls of a method with errors."""
        self._planned[method].extend(errors)

    def stop_at(self, method: str) -> Gate:
        """Have the next call of a method stand still."""
        gate = Gate()
        self._planned[method].append(gate)
        return gate

    def clear(self) -> None:
        """Plan nothing."""
        self._planned.clear()

    async def strike(self, method: str, context: Any) -> None:
        """Do what is planned for this call."""
        planned = self._planned[method]
        if not planned:
            return
        fault = planned.popleft()
        if isinstance(fault, Gate):
            await fault.pass_through()
            return
        await refuse(context, fault)


async def refuse(context: Any, error: ServiceError) -> None:
    """Answer a call with an error, as a service of the platform does."""
    status = status_of(error)
    await context.abort(
        grpc.StatusCode[error.code], status.message, ((DETAILS_KEY, status.SerializeToString()),)
    )
