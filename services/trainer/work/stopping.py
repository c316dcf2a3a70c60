"""Being asked to stop: SIGTERM, from the service or from whoever ends the machine."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """The run ends because it was asked to. No Exception: what handles errors must not swallow it."""


class StopRequest:
    """Whether the worker is to stop. Outside `deferred` it stops where it stands, inside after its step."""

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False

    def listen(self) -> None:
        """Take SIGTERM as the request. Children, which load data, just end on it."""
        signal.signal(signal.SIGTERM, self._heard)
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Leave it to the block to look at `asked`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        # The service and the worker's own look at the lease may both ask: on its way out it goes on.
        again, self.asked = self.asked, True
        if not (again or self._deferred):
            raise Stopped
