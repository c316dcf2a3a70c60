"""`weighbridge check`, `train` and `predict`: weigh a job, run it, try what it made."""

from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli import output
from weighbridge.cli.exits import Exit
from weighbridge.cli.session import JsonFlag, session
from weighbridge.cli.views_verdict import show_verdict
from weighbridge.cli.watching import follow
from weighbridge.hardware.v1.resources_pb2 import Decision

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A YAML file that describes the job.")]


def check(ctx: typer.Context, spec: SpecFile, json: JsonFlag = False) -> None:
    """Weigh a job and create nothing. Ends with 0: fits now; 3: does not fit; 4: fits, but must wait."""
    found = session(ctx).client().check(spec)
    if session(ctx).json:
        output.json_line(found)
    else:
        show_verdict(found.verdict, found.estimate)
        for warning in found.warnings:
            output.say(f"warning: {warning}", "yellow")
    ends = {Decision.DECISION_ADMIT: Exit.OK, Decision.DECISION_WAIT: Exit.MUST_WAIT}
    raise typer.Exit(ends.get(found.verdict.decision, Exit.DOES_NOT_FIT))


def train(
    ctx: typer.Context,
    spec: SpecFile,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it is done.")] = False,
    name: Annotated[str, typer.Option("--name", help="A name for people.")] = "",
    request_id: Annotated[
        str | None, typer.Option(help="Your own unique id: a repeat with it returns the first job.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Create a job. With --watch, follow it; the exit status says how it ended."""
    client = session(ctx).client()
    job = client.train(spec, display_name=name, request_id=request_id)
    if watch:
        if not session(ctx).json:
            output.say(f"job {job.id}")
        follow(session(ctx), client, job.name)
    elif session(ctx).json:
        output.json_line(job.message)
    else:
        output.say(f"job {job.id} is {job.state}: `weighbridge jobs watch {job.id}` follows it")


def predict(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job that made an image classifier.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Pictures.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="So many labels each.")] = 3,
    json: JsonFlag = False,
) -> None:
    """Classify pictures with a finished job's model."""
    found = session(ctx).client().predict(job, images, top_k)
    made = output.table(
        "IMAGE", "LABEL", "PROBABILITY", "THEN", right=("PROBABILITY",), prose=("IMAGE", "THEN")
    )
    for path, classification in zip(images, found, strict=True):
        if session(ctx).json:
            output.json_line({"image": str(path), **output.plain(classification)})
            continue
        best, *others = classification.scores
        then = ", ".join(f"{score.label} {score.probability:.1%}" for score in others)
        made.add_row(path.name, best.label, f"{best.probability:.1%}", then)
    if not session(ctx).json:
        output.show(made)
