"""The commands, put together."""

from typing import Annotated

import typer

from weighbridge.cli import audit, chatting, datasets, exits, jobs, models, nodes, training
from weighbridge.cli.session import Commands, JsonFlag, Session
from weighbridge.cli.up import command as platform

_EPILOG = "Exit status:\n\n\b\n" + exits.table()

app = typer.Typer(
    name="weighbridge",
    cls=Commands,
    no_args_is_help=True,
    # Rich would run the table of exit statuses into one paragraph.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
)


@app.callback()
def weighbridge(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Option(help="`host:port` of the gateway. [WEIGHBRIDGE_TARGET]")
    ] = None,
    token_file: Annotated[
        str | None, typer.Option(help="File that holds your token. [WEIGHBRIDGE_TOKEN_FILE]")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="Project. [WEIGHBRIDGE_PROJECT]")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Weigh training jobs before they get a GPU, then run them where they fit.

    Jobs, data sets and nodes may be named by their short ids. Where the platform is comes from the options,
    then from the environment, then from what `weighbridge up` wrote to ~/.weighbridge (WEIGHBRIDGE_HOME).
    """
    ctx.obj = Session(target=target, token_file=token_file, project=project, json=json)


app.command()(platform.up)
app.command()(platform.down)
app.add_typer(nodes.app, name="nodes")
app.add_typer(datasets.app, name="datasets")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
for command in (
    training.check,
    training.train,
    training.predict,
    chatting.chat,
    audit.admissions,
    audit.outcomes,
    audit.version,
):
    app.command()(command)
