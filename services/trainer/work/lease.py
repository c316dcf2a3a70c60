"""The end of the node's lease, for a worker whose service is gone: nobody else would stop it."""

import logging
import os
import signal
import threading
import time

from services.common.lease import is_past
from services.trainer.runs.directory import RunDirectory

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class LeaseWatch(threading.Thread):
    """Asks this process to stop, as the service would, once the time that the service has named is over.

    A service that lives names a later one before that.
    """

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__(name="lease-watch", daemon=True)
        self._directory = directory

    def run(self) -> None:
        """Look until the end of the lease, or of the process."""
        # A wait does not count a sleep of the machine; the clock that is looked at does.
        while not is_past(self._directory.keepalive_until()):
            time.sleep(_LOOK_S)
        log.warning("the node's lease has ended and the service has not come back: stopping")
        # A signal, since it reaches the main thread wherever that stands.
        os.kill(os.getpid(), signal.SIGTERM)
