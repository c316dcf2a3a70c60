"""How long a platform that cannot be reached is tried again, and how often."""

import random
import time
from collections.abc import Callable

from weighbridge.exceptions import CallError

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
Waiting = Callable[[CallError], None]
"""Is told about each failure that is tried again."""


class Patience:
    """Waits between tries; ends after `patience_s` seconds without a success."""

    def __init__(self, patience_s: float, on_wait: Waiting | None = None) -> None:
        self._patience_s = patience_s
        self._on_wait = on_wait
        self.succeeded()

    def succeeded(self) -> None:
        """Begin anew: the platform answered."""
        self._wait_s = FIRST_WAIT_S
        self._failing_since: float | None = None

    def failed(self, error: CallError) -> None:
        """Wait before the next try. Raises `error` when the patience is at its end."""
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if now - self._failing_since >= self._patience_s:
            raise error
        if self._on_wait is not None:
            self._on_wait(error)
        # Many clients lose the same gateway at the same moment: they should not come back at the same one.
        time.sleep(self._wait_s * random.uniform(0.5, 1.0))
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
