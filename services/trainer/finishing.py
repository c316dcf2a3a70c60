"""Work that is done to its end, although whoever asked for it has left."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.common.context import spawn

T = TypeVar("T")

_begun: set[asyncio.Task[Any]] = set()


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. A caller that is cancelled stops waiting; the work goes on.

    A thread cannot be cancelled: a lock that its caller let go of would no longer guard what it does.
    """
    task = spawn(work, "finish")
    _begun.add(task)
    task.add_done_callback(_begun.discard)
    return await asyncio.shield(task)
