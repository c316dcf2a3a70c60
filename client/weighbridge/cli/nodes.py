"""`weighbridge nodes`: what the fleet has, and who takes jobs."""

from typing import Annotated

import typer

from weighbridge.cli import output
from weighbridge.cli.session import JsonFlag, session
from weighbridge.cli.views_nodes import node_table, remarks
from weighbridge.gateway.v1.resources_pb2 import FleetNode

app = typer.Typer(help="What the fleet has, and which nodes take jobs.", invoke_without_command=True)

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]


@app.callback()
def nodes(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and print every change.")] = False,
    json: JsonFlag = False,
) -> None:
    """List nodes, device by device: capacity, what runs hold, what others use, what is available."""
    if ctx.invoked_subcommand is not None:
        return
    if watch:
        _watch(ctx)
        return
    found = session(ctx).client().nodes()
    if session(ctx).json:
        for node in found:
            output.json_line(node)
    else:
        _show(found)


def _show(found: list[FleetNode]) -> None:
    if not found:
        output.say("no node has registered yet")
        return
    output.show(node_table(found))
    for remark in remarks(found):
        output.say(remark, "dim")


def _watch(ctx: typer.Context) -> None:
    known: dict[str, FleetNode] = {}
    for node in session(ctx).client().watch_nodes():
        if session(ctx).json:
            output.json_line(node)
            continue
        known[node.name] = node
        if output.console().is_terminal:
            output.console().clear()
        _show([known[name] for name in sorted(known)])


@app.command()
def cordon(ctx: typer.Context, node: NodeName, json: JsonFlag = False) -> None:
    """Send no new jobs to a node; its runs go on."""
    _changed(ctx, session(ctx).client().cordon(node))


@app.command()
def uncordon(ctx: typer.Context, node: NodeName, json: JsonFlag = False) -> None:
    """Send jobs to a node again."""
    _changed(ctx, session(ctx).client().uncordon(node))


@app.command()
def drain(ctx: typer.Context, node: NodeName, json: JsonFlag = False) -> None:
    """Cordon a node and move its jobs away, each from its last checkpoint."""
    _changed(ctx, session(ctx).client().drain(node))


@app.command()
def delete(
    ctx: typer.Context,
    node: NodeName,
    force: Annotated[
        bool, typer.Option("--force", help="Declare it lost although it has runs: only when it is off.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Forget a node."""
    session(ctx).client().delete_node(node, force=force)
    if session(ctx).json:
        output.json_line({"deleted": node})
    else:
        output.say(f"node {node} is forgotten")


def _changed(ctx: typer.Context, node: FleetNode) -> None:
    if session(ctx).json:
        output.json_line(node)
    else:
        _show([node])
