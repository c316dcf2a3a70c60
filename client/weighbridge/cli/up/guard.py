"""`python -m weighbridge.cli.up.guard PARENT MODULE` becomes `python -m MODULE`, and ends when PARENT does.

Whoever kills `weighbridge up` for good (SIGKILL, the out-of-memory killer) leaves nothing behind that holds
its ports. Linux tells a process of its parent's end on request; elsewhere the next `weighbridge up` says that
a port is taken.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask to be told, and become the service."""
    parent, module = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have ended before the request was made.
    if os.getppid() == int(parent):
        os.execv(sys.executable, [sys.executable, "-P", "-m", module])


if __name__ == "__main__":
    main()
