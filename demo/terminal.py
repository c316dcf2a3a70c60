"""The `weighbridge` command as a person at a terminal runs it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

WEIGHBRIDGE = str(Path(sys.executable).with_name("weighbridge"))
_START_S = 300.0


class Terminal:
    """Shows each command, then what it prints."""

    def __init__(self, home: Path) -> None:
        self.console = Console(highlight=False)
        self._env = {**os.environ, "WEIGHBRIDGE_HOME": str(home)}

    def heading(self, text: str) -> None:
        """Begin a part of the story."""
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def show(self, *command: str) -> None:
        """Show a command as it is typed."""
        self.console.print(Text(f"\n$ {shlex.join(command)}", "bold cyan"), soft_wrap=True)

    def run(self, *arguments: str, expect: int = 0) -> None:
        """Run a command before the user's eyes.

        Raises:
            SystemExit: it ended with another exit code than `expect`.
        """
        self.show("weighbridge", *arguments)
        code = subprocess.run([WEIGHBRIDGE, *arguments], env=self._env).returncode
        if code != expect:
            raise SystemExit(f"demo: `weighbridge {' '.join(arguments)}` ended with {code}, not {expect}")

    def read(self, *arguments: str) -> list[Any]:
        """Return what a command answers with --json, one object a line; a failure ends the demo."""
        done = subprocess.run([WEIGHBRIDGE, *arguments, "--json"], env=self._env, stdout=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(f"demo: `weighbridge {' '.join(arguments)}` ended with {done.returncode}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextmanager
    def platform(self, home: Path) -> Iterator[None]:
        """Keep `weighbridge up` running in `home`; however the block ends, nothing is left behind."""
        self.show("weighbridge", "up", "--home", str(home), "--port", "0")
        up = subprocess.Popen(
            [WEIGHBRIDGE, "up", "--home", str(home), "--port", "0"],
            env=self._env,
            stdin=subprocess.DEVNULL,
            # It ends with the table that comes next; what goes wrong is told on standard error.
            stdout=subprocess.DEVNULL,
            # Its own session: a Ctrl-C reaches this program first, which then stops the platform in order.
            start_new_session=True,
        )
        try:
            _await_ready(up, home)
            yield
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()


def _await_ready(up: "subprocess.Popen[bytes]", home: Path) -> None:
    end_s = time.monotonic() + _START_S
    ready = home / "up.ready"
    while not (ready.exists() and ready.read_text() == str(up.pid)):
        if up.poll() is not None or time.monotonic() > end_s:
            raise SystemExit("demo: the platform did not start; see the lines above")
        time.sleep(0.1)
