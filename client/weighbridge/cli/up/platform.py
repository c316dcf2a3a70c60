"""All services of a local platform together: started, supervised, stopped in order."""

import threading
import time
from collections.abc import Callable, Sequence

from weighbridge.cli.exits import CommandError, Exit
from weighbridge.cli.up.home import Home
from weighbridge.cli.up.leftovers import end_workers
from weighbridge.cli.up.process import ServiceProcess
from weighbridge.cli.up.services import Service

_START_S = 60.0
_TICK_S = 0.2
# The gateway first, so that nothing new starts; the hardware service last, since memory is given back to it.
_STOP_ORDER = ("gateway", "trainer", "hardware")
Tell = Callable[[str], None]


class Platform:
    """The services' processes; `stopping` is set when they are to end."""

    def __init__(self, services: Sequence[Service], home: Home, *, keep_running: bool) -> None:
        self.processes = [ServiceProcess(service, home) for service in services]
        self.stopping = threading.Event()
        self._home = home
        self._keep_running = keep_running

    def start(self) -> None:
        """Start all and wait until they serve.

        Raises:
            CommandError: one died or does not serve; the message holds the end of its log.
        """
        for process in self.processes:
            process.start()
        # At once, in no order: each waits for the others by itself.
        end_s = time.monotonic() + _START_S
        waiting = list(self.processes)
        while waiting and not self.stopping.is_set():
            self.check_alive()
            waiting = [process for process in waiting if not process.serves()]
            if waiting and time.monotonic() > end_s:
                raise _failed(waiting[0], f"does not serve after {_START_S:g} s")
            self.stopping.wait(_TICK_S if waiting else 0)

    def check_alive(self) -> None:
        """Raise CommandError with the end of its log where a service has ended."""
        for process in self.processes:
            status = process.ended()
            if status is not None:
                raise _failed(process, f"ended with status {status}")

    def supervise(self, tell: Tell) -> None:
        """Keep the services running until `stopping` is set; `tell` hears of each that died."""
        while not self.stopping.wait(_TICK_S):
            for process in self.processes:
                told = process.attend()
                if told:
                    tell(told)

    def stop(self, tell: Tell) -> None:
        """Stop all in order, and the workers unless they are to go on."""
        by_name = {process.service.name: process for process in self.processes}
        for name in _STOP_ORDER:
            by_name[name].stop()
            if name == "trainer" and not self._keep_running:
                left = end_workers(self._home.state_dir("trainer") / "runs")
                if left:
                    tell(
                        f"{left} runs were ended; their jobs go on from the last checkpoint at the next start"
                    )

    def kill(self) -> None:
        """End all at once."""
        for process in self.processes:
            process.kill()
        if not self._keep_running:
            end_workers(self._home.state_dir("trainer") / "runs")


def _failed(process: ServiceProcess, what: str) -> CommandError:
    tail = "\n".join(f"  {line}" for line in process.tail().splitlines())
    return CommandError(
        f"the {process.service.name} service {what}; the end of {process.log}:\n{tail}", Exit.UNEXPECTED
    )
