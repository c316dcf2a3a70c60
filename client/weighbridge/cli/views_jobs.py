"""Jobs as people read them: one line each, or one job whole."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from weighbridge import spec_file
from weighbridge.cli import output, words
from weighbridge.cli.narration import STATE_STYLES, describe, progress_line, what
from weighbridge.cli.views_verdict import show_verdict
from weighbridge.common.v1.artifacts_pb2 import Checkpoint
from weighbridge.gateway.v1.resources_pb2 import Attempt, TrainingJob
from weighbridge.jobs import Job
from weighbridge.names import short
from weighbridge.trainer.v1.resources_pb2 import RunState

# The whole of it stands in `jobs get`.
_STANDING_LENGTH = 100


def job_table(jobs: Iterable[Job]) -> Table:
    """Return one row a job."""
    made = output.table(
        "JOB", "STATE", "WHAT", "NODE", "CREATED", "HOW IT STANDS", prose=("WHAT", "HOW IT STANDS")
    )
    for job in jobs:
        message = job.message
        made.add_row(
            Text(job.id, "bold"),
            _state(job.state),
            message.display_name or what(message.spec),
            short(message.attempts[-1].node) if message.attempts else "",
            words.ago(message.create_time),
            words.cut(standing(message), _STANDING_LENGTH),
        )
    return made


def standing(job: TrainingJob) -> str:
    """Return the one thing worth knowing about a job now."""
    if job.failure.message:
        return job.failure.message
    if job.conditions:
        return describe(job.conditions[0])
    if job.artifact.files:
        return words.metrics(dict(job.metrics))
    if job.progress.total_steps:
        return f"step {job.progress.step}/{job.progress.total_steps}, loss {job.progress.loss:.4f}"
    return ""


def show_job(job: Job, checkpoints: Sequence[Checkpoint], project: str) -> None:
    """Print one job whole."""
    message = job.message
    output.say(Text.assemble((job.id, "bold"), "  ", _state(job.state), f"  {what(message.spec)}"))
    for label, value in _facts(message):
        output.say(Text.assemble((f"{label:<12}", "dim"), value))
    if message.verdict.decision:
        output.say("\nverdict:", "bold")
        show_verdict(message.verdict, message.estimate)
    if message.attempts:
        output.say("")
        output.show(_attempts(message.attempts))
    for checkpoint in checkpoints:
        metrics = words.metrics(dict(checkpoint.metrics))
        text = f"checkpoint at step {checkpoint.step} ({words.size(checkpoint.size_bytes)}) {metrics}"
        output.say(text.rstrip(), "dim")
    output.say("")
    output.say(spec_file.dump(message.spec, project).rstrip())


def _facts(job: TrainingJob) -> list[tuple[str, str]]:
    facts = [
        ("name", job.display_name),
        ("created", f"{words.moment(job.create_time)} by {job.caller}"),
        ("started", words.moment(job.start_time)),
        ("ended", words.moment(job.end_time)),
        ("expires", words.moment(job.expire_time)),
        ("failure", f"{job.failure.reason}: {job.failure.message}" if job.failure.reason else ""),
        *(("now", describe(condition)) for condition in job.conditions),
        ("progress", progress_line(job.progress, job) if job.progress.total_steps else ""),
        ("metrics", words.metrics(dict(job.metrics))),
        (
            "artifact",
            f"{words.many(len(job.artifact.files), 'file')}, {words.size(job.artifact.size_bytes)}"
            if job.artifact.files
            else "",
        ),
        *(("warning", warning) for warning in job.warnings),
    ]
    return [(label, value) for label, value in facts if value]


def _attempts(attempts: Sequence[Attempt]) -> Table:
    made = output.table(
        "ATTEMPT", "NODE", "STATE", "STARTED", "ENDED", "PEAK OF RESERVED", "WHY", prose=("WHY",)
    )
    for attempt in attempts:
        made.add_row(
            str(attempt.attempt),
            short(attempt.node),
            RunState.Name(attempt.state).removeprefix("RUN_STATE_"),
            words.stamp(attempt.start_time),
            words.stamp(attempt.end_time),
            _peaks(attempt),
            attempt.failure.message,
        )
    return made


def _peaks(attempt: Attempt) -> str:
    reserved = {amount.device: amount.reserved_bytes for amount in attempt.approval.amounts}
    return ", ".join(
        f"{words.size(peak.peak_bytes)} of {words.size(reserved[peak.device])}"
        for peak in attempt.peaks
        if reserved.get(peak.device)
    )


def _state(name: str) -> Text:
    return Text(name, STATE_STYLES.get(name, "default"))
