"""What is known of the call being served, wherever the code that serves it has got to.

The values live in context variables: every call is served by its own task, and tasks that it creates
inherit them. Work that outlives its call must not: start it with `spawn`.
"""

import asyncio
import contextvars
import re
import time
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

REQUEST_ID_KEY = "x-request-id"
T = TypeVar("T")
_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
# A moment, not a duration: what remains is read long after the call came in.
_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("deadline", default=None)
# The id goes into logs and messages: a caller must not write lines of its own into them.
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def current_request_id() -> str:
    """Return the id under which logs of every service show this call. Empty outside of a call."""
    return _request_id.get()


def time_remaining_s() -> float | None:
    """Return the seconds until the deadline of the call being served; None where it has none."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def enter_call(request_id: str, remaining_s: float | None) -> None:
    """Begin a call. `request_id` is what the caller sent; anything but a plain id is replaced."""
    _request_id.set(request_id if _ACCEPTED_ID.fullmatch(request_id) else uuid.uuid4().hex)
    _deadline.set(None if remaining_s is None else time.monotonic() + remaining_s)


def spawn(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start work that outlives the call that asked for it: without caller and deadline. Keep the task."""
    return asyncio.create_task(work, name=name, context=contextvars.Context())
