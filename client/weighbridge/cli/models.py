"""`weighbridge models`: the models of the hub in the nodes' caches."""

from typing import Annotated

import typer

from weighbridge.cli import output, words
from weighbridge.cli.progress import resumable, transfer
from weighbridge.cli.session import JsonFlag, session
from weighbridge.gateway.v1.resources_pb2 import NodeModel
from weighbridge.names import short

app = typer.Typer(help="Models of the hub in the nodes' caches: pull, list, delete.", no_args_is_help=True)

Repository = Annotated[
    str, typer.Argument(metavar="REPO", help="The repository, such as meta-llama/Llama-3.1-8B.")
]
Node = Annotated[str | None, typer.Option(help="Name of a node. Default: every node.")]
# As `git log` shows them: enough to tell them apart, and to name one.
_COMMIT_LENGTH = 12


@app.command()
def pull(
    ctx: typer.Context,
    repository: Repository,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit. Default: main.")] = "",
    node: Node = None,
    token_secret: Annotated[
        str, typer.Option(help="Name of the project's secret that holds a token for the hub.")
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Bring a model onto the nodes, so that jobs need not wait for it.

    Weights in safetensors, configurations and tokenizer files alone. Ctrl-C stops it; the same command again
    goes on from there.
    """
    models = session(ctx).client().models
    with resumable(), transfer(f"pulling {repository}", quiet=session(ctx).json) as progress:
        pulled = list(
            models.pull(
                repository, revision=revision, node=node, token_secret=token_secret, progress=progress
            )
        )
    for each in pulled:
        _say(ctx, each, "is on")


@app.command("list")
def list_all(ctx: typer.Context, node: Node = None, json: JsonFlag = False) -> None:
    """List the models that nodes have, and the jobs that train on them now."""
    found = session(ctx).client().models.list(node)
    for name in found.unreachable:
        output.note(f"node {short(name)} cannot be reached")
    if session(ctx).json:
        for each in found.models:
            output.json_line(each)
        return
    right = ("SIZE", "FILES")
    columns = ("NODE", "REPOSITORY", "REVISION", "SIZE", "FILES", "LAST USED", "USED BY")
    made = output.table(*columns, right=right, prose=("USED BY",))
    for each in found.models:
        made.add_row(
            short(each.node),
            each.model.repository,
            each.model.revision[:_COMMIT_LENGTH],
            words.size(each.model.size_bytes),
            str(each.model.file_count),
            words.ago(each.model.last_used_time),
            ", ".join(sorted({short(run).rpartition("-")[0] for run in each.model.runs})),
        )
    output.show(made)


@app.command()
def delete(
    ctx: typer.Context,
    repository: Repository,
    revision: Annotated[
        str, typer.Option(help="Commit, or the beginning of one. Default: every revision.")
    ] = "",
    node: Node = None,
    json: JsonFlag = False,
) -> None:
    """Remove a model from the nodes that have it, unless a job trains on it there."""
    for removed in session(ctx).client().models.delete(repository, revision=revision, node=node):
        _say(ctx, removed, "is no longer on")


def _say(ctx: typer.Context, each: NodeModel, what: str) -> None:
    if session(ctx).json:
        output.json_line(each)
        return
    model = each.model
    size = f"{words.many(model.file_count, 'file')}, {words.size(model.size_bytes)}"
    output.say(f"{model.repository}@{model.revision[:_COMMIT_LENGTH]} ({size}) {what} {short(each.node)}")
