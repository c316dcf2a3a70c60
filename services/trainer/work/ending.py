"""The run's last word, said once, whoever says it first: the main thread or the memory's watch."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from services.common import atomic
from services.common.failures import Failure
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.ending import OutcomeState
from services.trainer.runs.records import DevicePeak


class Ending:
    """Writes `outcome.json`."""

    def __init__(self, directory: RunDirectory, peaks: Callable[[], Sequence[DevicePeak]]) -> None:
        self._directory = directory
        self._peaks = peaks
        self._saying = threading.Lock()
        self._said = False

    def succeeded(self, metrics: Mapping[str, float]) -> bool:
        """End with an artifact. Returns False where an end was written before."""
        return self._say(OutcomeState.SUCCEEDED, artifact="artifact", metrics=dict(metrics))

    def cancelled(self) -> bool:
        """End as asked to."""
        return self._say(OutcomeState.CANCELLED)

    def failed(self, failure: Failure) -> bool:
        """End with a failure that another attempt would meet again."""
        return self._say(OutcomeState.FAILED, failure=asdict(failure))

    def _say(
        self,
        state: OutcomeState,
        failure: Mapping[str, object] | None = None,
        artifact: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        with self._saying:
            if self._said:
                return False
            # Set first: whatever goes wrong below, a second word would contradict the first.
            self._said = True
            outcome = {
                "state": state.value,
                "failure": failure,
                "artifact": artifact,
                "metrics": metrics or {},
                "peaks": [asdict(peak) for peak in self._peaks()],
            }
            atomic.write_json(self._directory.outcome_file, outcome)
            return True
