"""`weighbridge up --detach`: the same command again, in a session of its own, until it serves."""

import subprocess
import sys
import time
from collections.abc import Mapping

from weighbridge.cli import output
from weighbridge.cli.exits import CommandError, Exit
from weighbridge.cli.up.home import Home

_TICK_S = 0.1


def start_detached(
    home: Home, ports: Mapping[str, int], node: str, *, keep_running: bool, as_json: bool
) -> None:
    """Start the platform in the background and return once it is up.

    Raises:
        CommandError: it ended instead; the message holds what it said.
    """
    arguments = ["up", "--home", str(home.root), "--node", node, "--port", str(ports["gateway"])]
    arguments += ["--hardware-port", str(ports["hardware"]), "--trainer-port", str(ports["trainer"])]
    arguments += ["--keep-running"] if keep_running else []
    arguments += ["--json"] if as_json else []
    log = home.log_file("up")
    log.unlink(missing_ok=True)
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "weighbridge.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not _is_ready(home, process.pid):
        status = process.poll()
        if status is not None:
            raise CommandError(
                log.read_text().strip(), Exit(status) if status in set(Exit) else Exit.UNEXPECTED
            )
        time.sleep(_TICK_S)
    sys.stdout.write(log.read_text() if not as_json else log.read_text().splitlines()[-1] + "\n")
    output.note(f"it runs in the background as process {process.pid}; `weighbridge down` stops it")


def _is_ready(home: Home, pid: int) -> bool:
    try:
        return home.ready_file.read_text() == str(pid)
    except FileNotFoundError:
        return False
