"""`weighbridge admissions`, `outcomes` and `version`: what was decided, how good it was, and by what."""

from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

import weighbridge
from weighbridge.cli import output, words
from weighbridge.cli.session import JsonFlag, session
from weighbridge.cli.views_verdict import DECISIONS
from weighbridge.common.v1.training_spec_pb2 import Task
from weighbridge.gateway.v1.resources_pb2 import Admission
from weighbridge.hardware.v1.resources_pb2 import Outcome
from weighbridge.names import short

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, newest first.")]
Since = Annotated[datetime | None, typer.Option(help="Only those since, in local time.")]


def admissions(
    ctx: typer.Context,
    job: Annotated[str, typer.Option(help="Only those of this job.")] = "",
    since: Since = None,
    all_projects: Annotated[bool, typer.Option("--all-projects", help="Of every project you see.")] = False,
    limit: Limit = 20,
    json: JsonFlag = False,
) -> None:
    """The audit trail: who asked for what, what was decided, and why."""
    found = (
        session(ctx).client().admissions(job=job, since=_local(since), all_projects=all_projects, limit=limit)
    )
    if session(ctx).json:
        for admission in found:
            output.json_line(admission)
        return
    made = output.table(
        "TIME", "JOB", "CALLER", "NODE", "DECISION", "RESERVED", "WHY", right=("RESERVED",), prose=("WHY",)
    )
    for admission in found:
        made.add_row(*_admission(admission))
    output.show(made)


def _admission(admission: Admission) -> list[str | Text]:
    job = f"{short(admission.job)}-{admission.attempt}" if admission.attempt else short(admission.job)
    reserved = sum(amount.reserved_bytes for amount in admission.amounts if amount.device != "disk")
    return [
        words.stamp(admission.time),
        job or "(check)",
        admission.caller,
        short(admission.node) or "(fleet)",
        Text(*DECISIONS.get(admission.decision, ("", ""))),
        words.size(reserved) if reserved else "",
        admission.summary,
    ]


def outcomes(ctx: typer.Context, since: Since = None, limit: Limit = 20, json: JsonFlag = False) -> None:
    """Predicted peaks of memory beside the measured ones."""
    found = session(ctx).client().outcomes(since=_local(since), limit=limit)
    if session(ctx).json:
        for outcome in found:
            output.json_line(outcome)
        return
    figures = ("PREDICTED", "MEASURED", "OF PREDICTED")
    made = output.table(
        "ENDED", "RUN", "NODE", "MODEL", "TASK", "DEVICE", *figures, right=figures, prose=("TASK", "DEVICE")
    )
    for outcome in found:
        made.add_row(*_outcome(outcome))
    output.show(made)


def _outcome(outcome: Outcome) -> list[str]:
    share = outcome.measured_bytes / outcome.predicted_bytes if outcome.predicted_bytes else 0
    return [
        words.stamp(outcome.end_time),
        short(outcome.run),
        short(outcome.node),
        outcome.model_type,
        words.enum_word(Task.Name(outcome.task), "TASK_"),
        outcome.product,
        words.size(outcome.predicted_bytes),
        words.size(outcome.measured_bytes),
        f"{share:.0%}" if share else "",
    ]


def version(ctx: typer.Context, json: JsonFlag = False) -> None:
    """The version of this client."""
    if session(ctx).json:
        output.json_line({"version": weighbridge.__version__})
    else:
        output.say(f"weighbridge {weighbridge.__version__}")


def _local(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone()
