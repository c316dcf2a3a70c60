"""Models in the nodes' caches: passed on to the node that was named, gathered from all of them."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from services.common.errors import InUse, InvalidRequest, NotFound, PeerUnavailable, PermissionDenied
from services.common.rpc import from_rpc_error
from tests.gateway.fake_models import COMMIT, MIB
from tests.gateway.rig import Caller, Rig, refused
from weighbridge.gateway.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


def request(node: str = "nodes/one", **fields: str) -> service_pb2.PullModelRequest:
    return service_pb2.PullModelRequest(parent=node, repository="lab/tiny", **fields)


def stream(caller: Caller, asked: service_pb2.PullModelRequest) -> Any:
    return caller._fleet.PullModel(asked, timeout=30, wait_for_ready=True)  # type: ignore[attr-defined]


async def pull(caller: Caller, asked: service_pb2.PullModelRequest) -> list[service_pb2.PullModelResponse]:
    try:
        return [response async for response in stream(caller, asked)]
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


async def listed(rig: Rig, parent: str = "nodes/-", **fields: Any) -> service_pb2.ListModelsResponse:
    asked = service_pb2.ListModelsRequest(parent=parent, **fields)
    answer: service_pb2.ListModelsResponse = await rig.alice.ListModels(asked)
    return answer


def places(models: Any) -> list[tuple[str, str]]:
    return [(each.node, each.model.repository) for each in models]


async def delete(rig: Rig, node: str, repository: str) -> service_pb2.DeleteModelResponse:
    asked = service_pb2.DeleteModelRequest(parent=node, repository=repository)
    answer: service_pb2.DeleteModelResponse = await rig.alice.DeleteModel(asked)
    return answer


async def test_a_pull_is_passed_on_with_its_progress(rig: Rig) -> None:
    node = await rig.node()
    told = await pull(rig.alice, request(revision="v1", project="projects/default", token_secret="hub-token"))
    assert [each.progress.done_bytes for each in told[:-1]] == [0, 2 * MIB, 4 * MIB]
    assert (told[-1].model.node, told[-1].model.model.revision) == ("nodes/one", COMMIT)
    (asked,) = node.trainer.pulls
    assert (asked.repository, asked.revision) == ("lab/tiny", "v1")
    assert (asked.project, asked.token_secret) == ("default", "hub-token")


async def test_a_caller_that_leaves_ends_the_trainers_download(rig: Rig) -> None:
    node = await rig.node()
    node.trainer.pulls_hang = True
    call = stream(rig.alice, request())
    reading = asyncio.create_task(_exhaust(call))
    await rig.until(lambda: node.trainer.pulls)
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await rig.until(lambda: node.trainer.pulls_left)


async def test_a_secret_of_another_project_is_not_read(rig: Rig) -> None:
    node = await rig.node()
    with pytest.raises(PermissionDenied):
        await pull(rig.bob, request(project="projects/default", token_secret="hub-token"))
    with pytest.raises(InvalidRequest):
        await pull(rig.bob, request(token_secret="hub-token"))
    assert node.trainer.pulls == []


async def test_models_of_all_nodes_are_listed_page_by_page(rig: Rig) -> None:
    one, two = await rig.node("one"), await rig.node("two")
    one.trainer.give("lab/b")
    one.trainer.give("lab/a", COMMIT, "runs/j1-1")
    two.trainer.give("lab/a")
    first = await listed(rig, page_size=2)
    assert places(first.models) == [("nodes/one", "lab/a"), ("nodes/one", "lab/b")]
    assert list(first.models[0].model.runs) == ["runs/j1-1"]
    second = await listed(rig, page_size=2, page_token=first.next_page_token)
    assert places(second.models) == [("nodes/two", "lab/a")]
    assert not second.next_page_token
    assert places((await listed(rig, "nodes/two")).models) == [("nodes/two", "lab/a")]


async def test_a_node_that_is_away_hides_no_other(rig: Rig) -> None:
    one, two = await rig.node("one"), await rig.node("two")
    one.trainer.give("lab/a")
    await two.fall_silent()
    # Before and after the gateway knows that it is away.
    for wanted in (False, True):
        await rig.until(lambda wanted=wanted: _away(rig, "nodes/two", wanted))
        found = await listed(rig)
        assert (places(found.models), list(found.unreachable)) == ([("nodes/one", "lab/a")], ["nodes/two"])
        assert isinstance(await refused(listed(rig, "nodes/two")), PeerUnavailable)
        assert isinstance(await refused(pull(rig.alice, request("nodes/two"))), PeerUnavailable)


async def test_a_model_is_deleted_where_no_run_needs_it(rig: Rig) -> None:
    node = await rig.node()
    node.trainer.give("lab/used", COMMIT, "runs/j1-1")
    node.trainer.give("lab/idle")
    error = await refused(delete(rig, "nodes/one", "lab/used"))
    assert isinstance(error, InUse)
    assert error.user == "runs/j1-1"
    removed = await delete(rig, "nodes/one", "lab/idle")
    assert (places(removed.models), removed.freed_bytes) == ([("nodes/one", "lab/idle")], 4 * MIB)
    assert isinstance(await refused(delete(rig, "nodes/one", "lab/idle")), NotFound)
    assert isinstance(await refused(delete(rig, "nodes/none", "lab/idle")), NotFound)


async def _away(rig: Rig, name: str, wanted: bool) -> bool:
    nodes = (await rig.root.ListNodes(service_pb2.ListNodesRequest())).nodes
    state = next(node.state for node in nodes if node.name == name)
    return (state == resources_pb2.FLEET_NODE_STATE_UNREACHABLE) == wanted


async def _exhaust(call: Any) -> None:
    async for _ in call:
        pass
