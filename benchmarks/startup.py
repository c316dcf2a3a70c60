"""How long a service takes from its process's start to its first healthy answer."""

import statistics
import time
from collections.abc import Sequence

from weighbridge.cli.up.process import ServiceProcess

RUNS = 5
LIMIT_S = 5.0
_TICK_S = 0.01


def measure(processes: Sequence[ServiceProcess]) -> None:
    """Start each service alone several times, print its times, and leave all of them running."""
    print(f"Start-up: seconds to the first healthy answer, {RUNS} starts of each service alone")
    for process in processes:
        times_s = [_start(process) for _ in range(RUNS)]
        process.kill()
        print(
            f"  {process.service.name:<9} median {statistics.median(times_s):.2f} s, "
            f"slowest {max(times_s):.2f} s (limit {LIMIT_S:g} s)"
        )
    for process in processes:
        _start(process)


def _start(process: ServiceProcess) -> float:
    process.kill()
    begin_s = time.monotonic()
    process.start()
    while not process.serves():
        if process.ended() is not None:
            raise SystemExit(f"{process.service.name} ended:\n{process.tail()}")
        time.sleep(_TICK_S)
    return time.monotonic() - begin_s
