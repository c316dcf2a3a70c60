"""The marks that refuse a late start: for each job, the highest attempt that is over here."""

import json
import time
from pathlib import Path

from services.common import atomic
from services.common.errors import StaleAttempt
from services.common.names import parse_run

# An approval lives for minutes: a mark of last month refuses nothing any more.
_KEPT_S = 30 * 24 * 3600.0


class Tombstones:
    """One small file for each job. Everything here blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        for file in path.iterdir():
            if file.stat().st_mtime < time.time() - _KEPT_S:
                file.unlink(missing_ok=True)

    def highest(self, job_id: str) -> int:
        """Return the job's highest attempt that is over. 0: none is."""
        try:
            return int(json.loads((self._path / f"{job_id}.json").read_bytes())["attempt"])
        except FileNotFoundError:
            return 0

    def bury(self, run: str) -> None:
        """Refuse the run's attempt and all before it from now on."""
        job_id, attempt = parse_run(run)
        # Only ever upwards: a late cancel of an early attempt must not let a later one in.
        if attempt > self.highest(job_id):
            atomic.write_json(self._path / f"{job_id}.json", {"attempt": attempt})

    def check(self, run: str) -> None:
        """Raise StaleAttempt where the run's attempt, or a later one, is over."""
        job_id, attempt = parse_run(run)
        highest = self.highest(job_id)
        if attempt <= highest:
            raise StaleAttempt(run, highest)
