"""Models in the nodes' caches: one node or all of them, by the library and by the command."""

import json
import re
from collections.abc import Callable

import grpc
import pytest
from typer.testing import CliRunner, Result

from tests.client.fake_gateway import COMMIT, TOKEN, FakeGateway, Refusal, World, node_model
from weighbridge import exceptions as e
from weighbridge.cli.app import app
from weighbridge.cli.exits import Exit
from weighbridge.client import Client
from weighbridge.gateway.v1 import resources_pb2 as gateway_pb
from weighbridge.gateway.v1 import service_pb2 as api

Run = Callable[..., Result]
READY = gateway_pb.FLEET_NODE_STATE_READY
LOST = gateway_pb.FLEET_NODE_STATE_LOST


@pytest.fixture
def world() -> World:
    nodes = {"a": READY, "b": gateway_pb.FLEET_NODE_STATE_CORDONED, "c": LOST}
    return World(
        nodes=[gateway_pb.FleetNode(name=f"nodes/{name}", state=state) for name, state in nodes.items()]
    )


@pytest.fixture
def run(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name, value in {"TARGET": gateway.target, "TOKEN": TOKEN}.items():
        monkeypatch.setenv(f"WEIGHBRIDGE_{name}", value)
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_pull_goes_to_every_node_that_can_be_reached_at_one_commit(client: Client, world: World) -> None:
    seen: list[tuple[int, int]] = []
    pulled = list(client.models.pull("lab/tiny", progress=lambda done, total: seen.append((done, total))))
    assert [each.node for each in pulled] == ["nodes/a", "nodes/b"]
    # The branch is looked up once: it may move while the first node downloads.
    assert [request.revision for request in world.sent(api.PullModelRequest)] == ["", COMMIT]
    assert seen == 2 * [(0, 4 << 20), (2 << 20, 4 << 20), (4 << 20, 4 << 20)]


def test_a_pull_to_one_node_names_the_projects_secret(client: Client, world: World) -> None:
    list(client.models.pull("lab/tiny", revision="v1", node="b", token_secret="hub-token"))
    (sent,) = world.sent(api.PullModelRequest)
    assert (sent.parent, sent.revision) == ("nodes/b", "v1")
    assert (sent.project, sent.token_secret) == ("projects/default", "hub-token")


def test_a_pull_that_ends_without_a_model_has_broken_off(client: Client, world: World) -> None:
    world.pull_breaks = True
    with pytest.raises(e.Unavailable, match="the same call goes on"):
        list(client.models.pull("lab/tiny", node="a"))


def test_a_fleet_without_nodes_takes_no_pull(client: Client, world: World) -> None:
    world.nodes = [node for node in world.nodes if node.state == LOST]
    with pytest.raises(e.Unavailable, match="no node can be reached"):
        list(client.models.pull("lab/tiny"))


def test_all_pages_are_listed(client: Client, world: World) -> None:
    world.models = [node_model("nodes/a", f"lab/m{number:03d}") for number in range(150)]
    world.unreachable = ["nodes/c"]
    found = client.models.list()
    assert len(found.models) == 150
    assert found.unreachable == ["nodes/c"]


def test_a_model_is_deleted_where_it_is(client: Client, world: World) -> None:
    other = "f" * 40
    world.models = [
        node_model("nodes/a", "lab/tiny"),
        node_model("nodes/b", "lab/tiny", revision=other),
        node_model("nodes/b", "lab/other"),
    ]
    removed = list(client.models.delete("lab/tiny", revision=COMMIT[:7]))
    assert [each.node for each in removed] == ["nodes/a"]
    with pytest.raises(e.NotFound, match=f"no node has lab/tiny@{COMMIT[:7]} in its cache"):
        list(client.models.delete("lab/tiny", revision=COMMIT[:7]))
    assert [each.node for each in client.models.delete("lab/tiny")] == ["nodes/b"]


def test_the_command_pulls_and_tells_how_far_it_is(run: Run) -> None:
    result = run("models", "pull", "lab/tiny", "--node", "a")
    assert result.exit_code == Exit.OK
    assert "pulling lab/tiny: 50% of 4.0 MiB" in result.stderr
    assert f"lab/tiny@{COMMIT[:12]} (3 files, 4.0 MiB) is on a" in result.stdout
    (told,) = map(json.loads, run("models", "pull", "lab/tiny", "--node", "a", "--json").stdout.splitlines())
    assert (told["node"], told["model"]["revision"]) == ("nodes/a", COMMIT)


def test_the_command_lists_models_with_the_jobs_that_use_them(run: Run, world: World) -> None:
    world.models = [
        node_model("nodes/a", "lab/tiny", "runs/j2-3", "runs/j1-1"),
        node_model("nodes/b", "gpt2"),
    ]
    world.unreachable = ["nodes/c"]
    result = run("models", "list")
    for line in (
        r"NODE +REPOSITORY +REVISION +SIZE +FILES +LAST USED +USED BY",
        rf"a +lab/tiny +{COMMIT[:12]} +4.0 MiB +3 +j1, j2",
        rf"b +gpt2 +{COMMIT[:12]} +4.0 MiB +3",
    ):
        assert re.search(line, result.stdout)
    assert "node c cannot be reached" in result.stderr
    assert len(run("models", "list", "--node", "b", "--json").stdout.splitlines()) == 1


def test_the_command_deletes_and_says_what_is_in_the_way(run: Run, world: World) -> None:
    world.models = [node_model("nodes/a", "lab/tiny"), node_model("nodes/b", "lab/used", "runs/j1-1")]
    assert "is no longer on a" in run("models", "delete", "lab/tiny").stdout
    assert run("models", "delete", "lab/tiny").exit_code == Exit.NOT_FOUND
    assert run("models", "delete", "lab/used").exit_code == Exit.CONFLICT


def test_a_full_disk_has_an_exit_status_of_its_own(run: Run, world: World) -> None:
    world.errors["PullModel"] = Refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_DISK", "needs 16.06 GiB, has 3.10 GiB free"
    )
    result = run("models", "pull", "lab/tiny", "--node", "a")
    assert result.exit_code == Exit.LIMIT
    assert "needs 16.06 GiB, has 3.10 GiB free" in result.stderr
