"""Nodes: registered, silent, lost, cordoned, drained, deleted."""

import pytest

from services.common.errors import PermissionDenied
from tests.gateway.fake_node import FakeNode
from tests.gateway.rig import Rig, State, refused
from weighbridge.gateway.v1 import resources_pb2, service_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def fleet(rig: Rig) -> dict[str, resources_pb2.FleetNode]:
    listed = (await rig.root.ListNodes(service_pb2.ListNodesRequest())).nodes
    return {node.name: node for node in listed}


async def in_state(rig: Rig, node: FakeNode, state: int) -> resources_pb2.FleetNode:
    async def reached() -> resources_pb2.FleetNode | None:
        found = (await fleet(rig)).get(node.name)
        return found if found is not None and found.state == state else None

    return await rig.until(reached)


async def test_a_node_is_what_it_says_it_is(rig: Rig) -> None:
    node = await rig.node()
    known = await in_state(rig, node, resources_pb2.FLEET_NODE_STATE_READY)
    assert known.snapshot.address == node.address
    node.set(ready=False)
    known = await in_state(rig, node, resources_pb2.FLEET_NODE_STATE_NOT_READY)
    assert known.state_reason == "no trainer has reported itself"


async def test_a_fleet_of_one_has_no_lease_and_a_larger_one_has(rig: Rig) -> None:
    one = await rig.node("one")
    assert one.registered is not None
    assert one.registered.node_lease.ToSeconds() == 0
    two = await rig.node("two")
    assert two.registered is not None
    assert two.registered.node_lease.ToSeconds() == 3
    await rig.until(lambda: one.registered is not None and one.registered.node_lease.ToSeconds() == 3)


async def test_a_lost_node_is_given_up_after_its_lease_and_its_job_goes_on_elsewhere(rig: Rig) -> None:
    for name in ("one", "two"):
        await rig.node(name)
    name = await rig.create()
    lost, run = await rig.training(name)
    await rig.until(lambda: lost.registered is not None and lost.registered.node_lease.ToSeconds() == 3)
    tree = rig.tree(a=b"before")
    await lost.trainer.checkpoint(run, tree, 7)
    await rig.until(lambda: has_checkpoint(rig, name))
    await lost.fall_silent()
    other, again = await rig.training(name, attempt=2)
    assert other is not lost
    assert other.start_from[again].digest == tree.digest
    assert (await rig.job(name)).attempts[0].failure.reason == "NODE_LOST"
    known = await in_state(rig, lost, resources_pb2.FLEET_NODE_STATE_LOST)
    assert not known.runs
    # It comes back with what it was still doing, and is told to end it.
    lost.activate(run)
    await lost.start()
    lost.join(f"127.0.0.1:{rig.port}", "node-token")
    await in_state(rig, lost, resources_pb2.FLEET_NODE_STATE_READY)
    await rig.until(lambda: run in lost.trainer.cancelled and run not in lost.reservations)


async def has_checkpoint(rig: Rig, name: str) -> bool:
    asked = service_pb2.ListTrainingCheckpointsRequest(parent=name)
    return bool((await rig.alice.ListTrainingCheckpoints(asked)).checkpoints)


async def test_the_only_node_is_unreachable_and_never_given_up(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    await rig.training(name)
    await node.fall_silent()
    await in_state(rig, node, resources_pb2.FLEET_NODE_STATE_UNREACHABLE)

    async def told() -> bool:
        wanted = resources_pb2.CONDITION_TYPE_NODE_UNREACHABLE
        return any(each.type == wanted for each in (await rig.job(name)).conditions)

    await rig.until(told)
    assert (await rig.job(name)).state == State.STATE_RUNNING


async def test_a_node_with_a_run_is_deleted_by_force_alone(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    delete = service_pb2.DeleteNodeRequest(name=node.name)
    error = await refused(rig.root.DeleteNode(delete))
    assert error.reason == "IN_USE"
    assert run in str(error)
    await node.fall_silent()
    delete.force = True
    await rig.root.DeleteNode(delete)
    assert node.name not in await fleet(rig)
    job = await rig.job(name)
    assert job.state == State.STATE_QUEUED
    assert job.attempts[0].failure.reason == "NODE_LOST"


async def test_a_cancelled_job_on_a_node_that_is_gone_ends_when_the_node_is_given_up(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    await rig.training(name)
    await node.fall_silent()
    await rig.cancel(name)
    await rig.root.DeleteNode(service_pb2.DeleteNodeRequest(name=node.name, force=True))
    assert (await rig.in_state(name)).state == State.STATE_CANCELLED


async def test_a_cordoned_node_gets_no_new_jobs(rig: Rig) -> None:
    node = await rig.node()
    known = await rig.root.CordonNode(service_pb2.CordonNodeRequest(name=node.name))
    assert known.state == resources_pb2.FLEET_NODE_STATE_CORDONED
    name = await rig.create()

    async def told() -> bool:
        return any("cordoned" in each.message for each in (await rig.job(name)).conditions)

    await rig.until(told)
    await rig.root.UncordonNode(service_pb2.UncordonNodeRequest(name=node.name))
    await rig.training(name)


async def test_a_drained_nodes_jobs_move_away_from_their_checkpoints(rig: Rig) -> None:
    drained = await rig.node("tight", 50)
    other = await rig.node("loose", 100)
    name = await rig.create()
    found, run = await rig.training(name)
    assert found is drained
    await drained.trainer.checkpoint(run, rig.tree(a=b"b"), 3)
    await rig.until(lambda: has_checkpoint(rig, name))
    await rig.root.DrainNode(service_pb2.DrainNodeRequest(name=drained.name))
    found, again = await rig.training(name, attempt=2)
    assert found is other
    assert other.start_from[again].step == 3
    known = (await fleet(rig))[drained.name]
    assert known.state == resources_pb2.FLEET_NODE_STATE_DRAINING
    assert not known.runs


async def test_a_node_speaks_through_one_identity(rig: Rig) -> None:
    node = await rig.node()
    stranger = rig.caller("stranger")
    for call in (
        stranger.RegisterNode(service_pb2.RegisterNodeRequest(node=node.snapshot())),
        stranger.HeartbeatNode(service_pb2.HeartbeatNodeRequest(node=node.snapshot())),
    ):
        assert isinstance(await refused(call), PermissionDenied)


async def test_a_node_that_comes_back_is_told_of_its_live_attempts(rig: Rig) -> None:
    node = await rig.node()
    _, run = await rig.training(await rig.create())
    caller = rig.caller("node")
    told = await caller.RegisterNode(service_pb2.RegisterNodeRequest(node=node.snapshot()))
    assert [live.run for live in told.live_attempts] == [run]
    assert told.live_attempts[0].approval.token == "signed 1"
    assert told.heartbeat_interval.ToMilliseconds() == 700


async def test_an_unknown_node_is_told_to_register(rig: Rig) -> None:
    caller = rig.caller("node")
    beat = service_pb2.HeartbeatNodeRequest(
        node=hardware_pb2.Node(name="nodes/unknown", address="127.0.0.1:1")
    )
    assert (await caller.HeartbeatNode(beat)).register_again


async def test_the_fleet_is_watched(rig: Rig) -> None:
    watch = rig.root.fleet()
    node = await rig.node()
    seen: list[int] = []
    async for found in watch:
        if found.name == node.name and found.state not in seen:
            seen.append(found.state)
            if found.state == resources_pb2.FLEET_NODE_STATE_NOT_READY:
                break
            node.set(ready=False)
    await watch.aclose()
    assert seen == [resources_pb2.FLEET_NODE_STATE_READY, resources_pb2.FLEET_NODE_STATE_NOT_READY]


async def test_nodes_are_listed_in_pages_by_name(rig: Rig) -> None:
    for name in ("c", "a", "b"):
        await rig.node(name)
    first = await rig.root.ListNodes(service_pb2.ListNodesRequest(page_size=2))
    second = await rig.root.ListNodes(
        service_pb2.ListNodesRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [node.name for page in (first, second) for node in page.nodes] == ["nodes/a", "nodes/b", "nodes/c"]
    assert not second.next_page_token
