"""`weighbridge up` and `weighbridge down`."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from weighbridge import config
from weighbridge.cli import output
from weighbridge.cli.exits import CommandError, Exit
from weighbridge.cli.session import JsonFlag, session
from weighbridge.cli.up.detached import start_detached
from weighbridge.cli.up.home import Home, write_private
from weighbridge.cli.up.identities import create_identities
from weighbridge.cli.up.platform import Platform
from weighbridge.cli.up.process import STOP_S
from weighbridge.cli.up.services import check_installed, choose_ports, plan
from weighbridge.cli.views_nodes import node_table, remarks
from weighbridge.client import Client
from weighbridge.exceptions import CallError
from weighbridge.gateway.v1.resources_pb2 import FleetNode, FleetNodeState

# The trainer tries which of its libraries can be imported before it reports itself.
_NODE_READY_S = 180.0
HomeOption = Annotated[
    Path | None, typer.Option(help="The platform's directory. Default: WEIGHBRIDGE_HOME, or ~/.weighbridge.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0: any free one.")]
OtherPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Default: the gateway's port and 1 or 2.")
]


def up(
    ctx: typer.Context,
    home: HomeOption = None,
    port: Port = 7700,
    hardware_port: OtherPort = None,
    trainer_port: OtherPort = None,
    node: Annotated[str, typer.Option(help="Name of this machine's node.")] = "local",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it serves.")] = False,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave running jobs be when the platform stops.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Start the whole platform on this machine: gateway, hardware, trainer.

    Ctrl-C stops it and leaves no process behind; jobs that were running go on from their last checkpoint at
    the next start. What the environment says in WEIGHBRIDGE_… settings applies.
    """
    check_installed()
    place = _home(home)
    place.create()
    wanted = {
        "gateway": port,
        "hardware": _next_to(port, 1) if hardware_port is None else hardware_port,
        "trainer": _next_to(port, 2) if trainer_port is None else trainer_port,
    }
    if detach:
        start_detached(place, wanted, node, keep_running=keep_running, as_json=session(ctx).json)
        return
    with place.occupied():
        create_identities(place)
        services = plan(place, choose_ports(wanted), node, keep_running=keep_running)
        _run(ctx, place, Platform(services, place, keep_running=keep_running))


def down(ctx: typer.Context, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Stop the platform that runs on this machine."""
    place = _home(home)
    # The lock proves that the process of that id is the one that wrote it.
    pid = place.running()
    if pid:
        os.kill(pid, signal.SIGTERM)
        end_s = time.monotonic() + 3 * STOP_S
        while place.running() == pid:
            if time.monotonic() > end_s:
                raise CommandError(
                    f"process {pid} does not stop; see {place.log_file('up')}", Exit.UNEXPECTED
                )
            time.sleep(0.1)
    if session(ctx).json:
        output.json_line({"home": str(place.root), "stopped": pid is not None})
    else:
        output.say(f"the platform in {place.root} " + ("is stopped" if pid else "was not running"))


def _run(ctx: typer.Context, home: Home, platform: Platform) -> None:
    with _stopped_by_signals(platform):
        try:
            output.note(f"starting in {home.root}")
            platform.start()
            _announce(ctx, home, platform)
            platform.supervise(output.note)
        finally:
            output.note("stopping")
            platform.stop(output.note)


def _announce(ctx: typer.Context, home: Home, platform: Platform) -> None:
    gateway = platform.processes[0].service.address
    # Before the nodes are ready: whoever looks at a slow start needs a client that knows where to look.
    home.write_client_file(gateway)
    nodes = _ready_nodes(home, platform)
    if platform.stopping.is_set():
        return
    if session(ctx).json:
        output.json_line(_as_json(home, platform))
    else:
        _show(home, platform, nodes)
    # Last: whoever waits for it reads what was printed before.
    write_private(home.ready_file, str(os.getpid()))


def _show(home: Home, platform: Platform, nodes: list[FleetNode]) -> None:
    for process in platform.processes:
        output.say(f"{process.service.name:<9} {process.service.address:<16} {process.log}", "dim")
    output.show(node_table(nodes))
    for remark in remarks(nodes):
        output.say(remark, "dim")
    if home.root != config.home():
        output.say(f"in other shells: export WEIGHBRIDGE_HOME={home.root}", "bold")
    output.say("the platform is up; Ctrl-C stops it. Next: `weighbridge check SPEC`", "bold green")


def _as_json(home: Home, platform: Platform) -> dict[str, object]:
    return {
        "home": str(home.root),
        "target": platform.processes[0].service.address,
        "token_file": str(home.token_file("user")),
        "services": [
            {"name": each.service.name, "address": each.service.address, "log": str(each.log)}
            for each in platform.processes
        ],
    }


def _ready_nodes(home: Home, platform: Platform) -> list[FleetNode]:
    """Return the nodes once one takes jobs, or as they are when that takes too long."""
    target, token = platform.processes[0].service.address, home.token_file("user").read_text()
    nodes: list[FleetNode] = []
    started_s, end_s = time.time(), time.monotonic() + _NODE_READY_S
    with Client(target, token) as client:
        while time.monotonic() < end_s and not platform.stopping.wait(0.3):
            platform.check_alive()
            with contextlib.suppress(CallError):
                nodes = client.nodes()
            if any(_takes_jobs(node, started_s) for node in nodes):
                break
    return nodes


def _takes_jobs(node: FleetNode, since_s: float) -> bool:
    # The ledger remembers what a node said before the last stop.
    reported = node.heartbeat_time.ToNanoseconds() / 1e9 >= since_s
    return reported and node.state == FleetNodeState.FLEET_NODE_STATE_READY


@contextlib.contextmanager
def _stopped_by_signals(platform: Platform) -> Iterator[None]:
    """Let a first signal stop the platform in order, and a second one at once."""

    def on_signal(number: int, frame: object) -> None:
        if platform.stopping.is_set():
            platform.kill()
        platform.stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _next_to(port: int, distance: int) -> int:
    return port + distance if port else 0


def _home(path: Path | None) -> Home:
    return Home((path or config.home()).expanduser().absolute())
