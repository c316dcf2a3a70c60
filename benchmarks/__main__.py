"""Start a platform of its own, measure it, print the figures, stop it."""

import sys
import tempfile
from pathlib import Path

from benchmarks import hop, startup
from weighbridge.cli.up.home import Home
from weighbridge.cli.up.identities import create_identities
from weighbridge.cli.up.process import ServiceProcess
from weighbridge.cli.up.services import choose_ports, plan


def main() -> int:
    """Print every figure and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as root:
        home = Home(Path(root))
        home.create()
        create_identities(home)
        ports = choose_ports({"gateway": 0, "hardware": 0, "trainer": 0})
        processes = [
            ServiceProcess(service, home) for service in plan(home, ports, "local", keep_running=False)
        ]
        try:
            startup.measure(processes)
            hop.measure(home, {process.service.name: process.service.address for process in processes})
        finally:
            for process in processes:
                process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
