"""What happens to a job, as it happens, over connections that may break."""

import math
import time
from collections.abc import Iterator

from weighbridge._link import Link
from weighbridge._patience import Patience, Waiting
from weighbridge.exceptions import DeadlineExceeded, Unavailable
from weighbridge.gateway.v1.resources_pb2 import FleetNode, JobEvent, TrainingJob
from weighbridge.gateway.v1.service_pb2 import (
    StreamTrainingLogsRequest,
    WatchFleetRequest,
    WatchTrainingJobRequest,
)
from weighbridge.trainer.v1.resources_pb2 import LogLine

State = TrainingJob.State
FINAL = frozenset({State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED, State.STATE_REJECTED})
"""States that end a watch."""
# A gateway that is rolled out anew, or a laptop that sleeps for a while, ends no watch.
PATIENCE_S = 600.0


def watch(
    link: Link,
    job: str,
    cursor: str = "",
    *,
    timeout_s: float | None = None,
    patience_s: float = PATIENCE_S,
    on_wait: Waiting | None = None,
) -> Iterator[JobEvent]:
    """Yield the job as it is, then every event after `cursor`, across attempts, until a final state.

    Raises:
        DeadlineExceeded: the job has not ended after `timeout_s` seconds.
        Unavailable: the platform could not be reached for `patience_s` seconds; `on_wait` is told before.
    """
    end_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    patience, last = Patience(patience_s, on_wait), TrainingJob()
    again = False
    while (left_s := end_s - time.monotonic()) > 0:
        request = WatchTrainingJobRequest(name=job, cursor=cursor)
        try:
            for response in link.stream(link.training.WatchTrainingJob, request, _limit_s(left_s)):
                event, as_it_is, again = response.event, again, False
                # Before the event is handed on: whoever takes it may take long, and the connection break.
                cursor = event.cursor or cursor
                # A watch that is taken up again begins with the job as it is: no news, unless it changed, and
                # none of its end, which the events to come tell.
                if as_it_is and last.name and (event.job == last or event.job.state in FINAL):
                    continue
                patience.succeeded()
                last = event.job if event.HasField("job") else last
                yield event
            if last.state in FINAL:
                return
            # A gateway that drains may end its streams as if all were told.
            raise Unavailable("UNAVAILABLE", "the watch ended before the job did")
        except Unavailable as error:
            patience.failed(error)
            again = True
        except DeadlineExceeded:
            # Not the platform's fault: the time is up.
            break
    raise DeadlineExceeded("DEADLINE_EXCEEDED", f"{job} has not ended after {timeout_s:g} s; it goes on")


def _limit_s(left_s: float) -> float | None:
    return None if math.isinf(left_s) else left_s


def watch_nodes(link: Link, patience_s: float = PATIENCE_S) -> Iterator[FleetNode]:
    """Yield every node, and again each that changed, until the caller leaves.

    Raises:
        Unavailable: the platform could not be reached for `patience_s` seconds.
    """
    patience = Patience(patience_s)
    while True:
        try:
            # It has no cursor: a node is what it is now, so all of them again miss nothing.
            for response in link.stream(link.fleet.WatchFleet, WatchFleetRequest()):
                patience.succeeded()
                yield response.node
            raise Unavailable("UNAVAILABLE", "the watch of the nodes ended")
        except Unavailable as error:
            patience.failed(error)


def logs(
    link: Link,
    job: str,
    *,
    attempt: int = 0,
    offset: int = 0,
    follow: bool = False,
    patience_s: float = PATIENCE_S,
) -> Iterator[LogLine]:
    """Yield the lines that an attempt's process printed, from a byte offset; with `follow`, until it ended.

    Raises:
        Unavailable: the platform could not be reached for `patience_s` seconds.
    """
    patience = Patience(patience_s)
    while True:
        request = StreamTrainingLogsRequest(name=job, attempt=attempt, offset=offset, follow=follow)
        try:
            for response in link.stream(link.training.StreamTrainingLogs, request):
                for line in response.lines:
                    offset = line.offset
                    yield line
                patience.succeeded()
            return
        except Unavailable as error:
            patience.failed(error)
