"""Jobs as messages."""

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.jobs.job import Attempt, Event, Job
from gateway.jobs.jobs import JobView
from gateway.jobs.states import JobState
from gateway.jobs.watching import News
from gateway.weighing.check import Checked
from services.common.failures import Failure
from services.common.wire import to_message
from weighbridge.common.v1 import artifacts_pb2, resolved_spec_pb2
from weighbridge.gateway.v1 import resources_pb2, service_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.trainer.v1 import resources_pb2 as trainer_pb2

_State = resources_pb2.TrainingJob.State
_TIMES = ("create_time", "start_time", "end_time", "expire_time")


def job_message(view: JobView, *, brief: bool = False) -> resources_pb2.TrainingJob:
    """Return a job; `brief` leaves out the resolved spec."""
    job = view.job
    message = resources_pb2.TrainingJob(
        name=job.name,
        display_name=job.display_name,
        state=_State.Value(f"STATE_{job.state.upper()}"),
        conditions=[to_message(each, resources_pb2.Condition) for each in job.conditions],
        attempts=[attempt_message(attempt) for attempt in view.attempts],
        spec_sha256=job.spec_sha256,
        metrics=dict(job.metrics),
        failure=failure_message(job.failure),
        caller=job.caller,
        warnings=job.warnings,
    )
    message.spec.ParseFromString(job.spec)
    if job.resolved is not None and not brief:
        message.resolved_spec.ParseFromString(job.resolved)
    for field in ("estimate", "verdict", "progress", "artifact"):
        packed = getattr(job, field)
        if packed is not None:
            getattr(message, field).ParseFromString(packed)
    _set_times(message, job, _TIMES)
    return message


def attempt_message(attempt: Attempt) -> resources_pb2.Attempt:
    """Return an attempt."""
    message = resources_pb2.Attempt(
        attempt=attempt.attempt,
        node=attempt.node,
        failure=failure_message(attempt.failure),
        peaks=[to_message(peak, trainer_pb2.DevicePeak) for peak in attempt.peaks],
    )
    if attempt.state is not None:
        message.state = trainer_pb2.RunState.Value(f"RUN_STATE_{attempt.state.upper()}")
    if attempt.approval is not None:
        message.approval.ParseFromString(attempt.approval)
        # It lets a run start; whoever reads jobs has no use for it.
        message.approval.token = ""
    _set_times(message, attempt, ("create_time", "start_time", "end_time"))
    return message


def news_message(news: News) -> resources_pb2.JobEvent:
    """Return a watcher's event."""
    message = resources_pb2.JobEvent(cursor=news.cursor, attempt=news.attempt)
    message.time.FromDatetime(news.time)
    if news.view is not None:
        message.job.CopyFrom(job_message(news.view))
    if news.event is not None:
        _set_event(message, news.event)
    if news.progress is not None:
        message.progress.ParseFromString(news.progress)
    return message


def checked_message(checked: Checked) -> service_pb2.CheckTrainingJobResponse:
    """Return what weighing found."""
    return service_pb2.CheckTrainingJobResponse(
        verdict=resources_pb2.JobVerdict.FromString(checked.weighed.verdict),
        estimate=hardware_pb2.Estimate.FromString(checked.estimate),
        resolved_spec=resolved_spec_pb2.ResolvedSpec.FromString(checked.resolved.data),
        warnings=checked.warnings,
    )


def failure_message(failure: Failure | None) -> artifacts_pb2.Failure | None:
    """Return a failure."""
    return None if failure is None else to_message(failure, artifacts_pb2.Failure)


def job_states(request: service_pb2.ListTrainingJobsRequest) -> frozenset[JobState]:
    """Return the states that a listing asks for."""
    names = (_State.Name(number).removeprefix("STATE_").lower() for number in request.states if number)
    return frozenset(map(JobState, names))


def _set_event(message: resources_pb2.JobEvent, event: Event) -> None:
    body = getattr(message, event.kind)
    body.ParseFromString(event.body)
    body.SetInParent()


def _set_times(message: object, source: Job | Attempt, names: tuple[str, ...]) -> None:
    for name in names:
        moment = getattr(source, name)
        if moment is not None:
            stamp: Timestamp = getattr(message, name)
            stamp.FromDatetime(moment)
