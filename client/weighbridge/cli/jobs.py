"""`weighbridge jobs`: what became of what was asked for."""

from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli import output, words
from weighbridge.cli.progress import transfer
from weighbridge.cli.session import JsonFlag, session
from weighbridge.cli.views_jobs import job_table, show_job
from weighbridge.cli.watching import follow
from weighbridge.exporting import Form
from weighbridge.following import State
from weighbridge.jobs import Job
from weighbridge.spec_file.values import read_enum

app = typer.Typer(help="Training jobs: list, watch, stop, resume, download, export.", no_args_is_help=True)

_FORMS = {Form.MERGED: "the model", Form.ADAPTER: "the adapter", Form.GGUF: "the GGUF file"}

JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `jobs list` shows it.")]
JobNames = Annotated[list[str], typer.Argument(metavar="JOB…", help="Ids of jobs.")]


@app.command("list")
def list_all(
    ctx: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option(help="Only those in this state; may be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only those with this label, KEY=VALUE; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, newest first.")] = 20,
    json: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    found = (
        session(ctx)
        .client()
        .jobs.list(
            states=[_state(text) for text in state or []], labels=dict(map(_label, label or [])), limit=limit
        )
    )
    if session(ctx).json:
        for job in found:
            output.json_line(job.message)
    else:
        output.show(job_table(found))


@app.command()
def get(ctx: typer.Context, job: JobName, json: JsonFlag = False) -> None:
    """Show a job whole: state, verdict, attempts, checkpoints and spec."""
    client = session(ctx).client()
    found = client.jobs.get(job)
    if session(ctx).json:
        output.json_line(found.message)
    else:
        show_job(found, client.jobs.checkpoints(job), client.project)


@app.command()
def watch(
    ctx: typer.Context,
    job: JobName,
    cursor: Annotated[str, typer.Option(help="Go on after the event with this cursor.")] = "",
    json: JsonFlag = False,
) -> None:
    """Follow a job until it is done: where it waits, how it learns, what it uses. Ctrl-C leaves it be."""
    follow(session(ctx), session(ctx).client(), job, cursor)


@app.command()
def logs(
    ctx: typer.Context,
    job: JobName,
    attempt: Annotated[int, typer.Option(min=0, help="Which attempt. 0: the newest.")] = 0,
    offset: Annotated[int, typer.Option(min=0, help="Go on from this byte.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the attempt has ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """Print what a job's process printed."""
    for line in session(ctx).client().jobs.logs(job, attempt=attempt, offset=offset, follow=follow):
        if session(ctx).json:
            output.json_line(line)
        else:
            typer.echo(line.text)


@app.command()
def cancel(ctx: typer.Context, jobs: JobNames, json: JsonFlag = False) -> None:
    """Ask jobs to stop; each gets time to write a checkpoint."""
    client = session(ctx).client()
    for job in jobs:
        _changed(ctx, client.jobs.cancel(job))


@app.command()
def resume(
    ctx: typer.Context,
    job: JobName,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it is done.")] = False,
    json: JsonFlag = False,
) -> None:
    """Queue a failed or cancelled job again, from its last checkpoint."""
    client = session(ctx).client()
    _changed(ctx, client.jobs.resume(job))
    if watch:
        follow(session(ctx), client, job)


@app.command()
def download(
    ctx: typer.Context,
    job: JobName,
    to: Annotated[Path | None, typer.Option(help="Directory. Default: the job's id.")] = None,
    json: JsonFlag = False,
) -> None:
    """Download a job's artifact. The same command again fetches only what is missing."""
    client = session(ctx).client()
    with transfer(f"downloading {job}", quiet=session(ctx).json) as progress:
        into = client.jobs.download(job, to, progress=progress)
    files = [str(path) for path in sorted(into.rglob("*")) if path.is_file()]
    if session(ctx).json:
        output.json_line({"directory": str(into), "files": files})
    else:
        output.say(f"{words.many(len(files), 'file')} in {into}")


@app.command()
def export(
    ctx: typer.Context,
    job: JobName,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made where it is missing.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="The whole model, adapters merged into it. The default.")
    ] = False,
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="The adapter alone, with the tokenizer: no base is fetched."),
    ] = False,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="One GGUF file, made on this machine with llama.cpp's converter.")
    ] = False,
    converter: Annotated[
        Path | None,
        typer.Option(help="convert_hf_to_gguf.py. Default: from the PATH. [WEIGHBRIDGE_GGUF_CONVERTER]"),
    ] = None,
    outtype: Annotated[
        str, typer.Option(help="Numbers in the GGUF file: f32, f16, bf16, q8_0 or auto.")
    ] = "auto",
    json: JsonFlag = False,
) -> None:
    """Export what a job made: the model for transformers, the adapter for peft, or a file for llama.cpp."""
    if merge + adapter + gguf > 1:
        raise typer.BadParameter("--merge, --adapter and --gguf exclude each other")
    form = Form.GGUF if gguf else Form.ADAPTER if adapter else Form.MERGED
    client = session(ctx).client()
    with transfer(f"exporting {job}", quiet=session(ctx).json) as progress:
        made = client.jobs.export(
            job, directory, form, converter=converter, outtype=outtype, progress=progress
        )
    if session(ctx).json:
        output.json_line({"form": form.value, "path": str(made)})
    else:
        output.say(f"{_FORMS[form]} of job {job} is in {made}")


@app.command()
def delete(ctx: typer.Context, jobs: JobNames, json: JsonFlag = False) -> None:
    """Remove jobs that are done, with their checkpoints and artifacts."""
    client = session(ctx).client()
    for job in jobs:
        client.jobs.delete(job)
        if session(ctx).json:
            output.json_line({"deleted": job})
        else:
            output.say(f"job {job} is deleted")


def _changed(ctx: typer.Context, job: Job) -> None:
    if session(ctx).json:
        output.json_line(job.message)
    else:
        output.say(f"job {job.id} is {job.state}")


def _state(text: str) -> State.ValueType:
    try:
        return State.ValueType(read_enum(State.DESCRIPTOR, text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--state") from error


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key, value
