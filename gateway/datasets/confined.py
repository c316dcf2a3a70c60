"""A process that reads what anybody may have sent: `python -m gateway.datasets.check_... FILE LIMITS`.

Decoders have bugs: this process has no credential, little memory, a limit on its time, and may write no file.
It answers with one JSON object on its output.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.datasets.limits import Broken, Limits


def answer(check: Callable[[Path, Limits], dict[str, Any]]) -> None:
    """Check the file that the arguments name, under the limits that they give, and write what was found."""
    path, limits = Path(sys.argv[1]), Limits(**json.loads(sys.argv[2]))
    _confine(limits)
    try:
        said: dict[str, Any] = {"found": check(path, limits)}
    except Broken as broken:
        said = {"broken": vars(broken)}
    sys.stdout.write(json.dumps(said))


def too_little_memory(item: str, limits: Limits) -> Broken:
    """Return the error for data that does not fit into the memory of its check."""
    return Broken(item, f"at most {limits.memory_bytes} bytes of memory", "more")


def _confine(limits: Limits) -> None:
    seconds = int(limits.timeout_s) + 1
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    # Calls being served go first.
    os.nice(10)
