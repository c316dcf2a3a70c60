"""The trainer beside a real hardware service: approvals are signed, memory is held."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.common.wire import to_message
from services.hardware.resources import NodeState
from services.hardware.units import MIB
from tests.hardware.conftest import starter
from tests.hardware.reserving import CAPACITY, Caller, calling
from tests.hardware.samples import estimate
from tests.trainer.harness import LOST, RUNNING, SUCCEEDED, Trainer, eventually, refused, trainer_at
from weighbridge.hardware.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
WAITING = (["started"], ["wait_for", "go"], ["succeed"])
Pair = tuple[Trainer, Caller]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """A trainer and what a gateway says to its node, which has 1000 MiB."""
    directory: Path = tmp_path_factory.mktemp("pair")
    (directory / "node").mkdir()
    with starter(directory / "node") as start:
        node = start(**CAPACITY, WEIGHBRIDGE_HELD_TTL="3")
        async with trainer_at(directory) as trainer, calling(node, ready=False) as caller:
            await trainer.restart(WEIGHBRIDGE_NODE="", WEIGHBRIDGE_HARDWARE_TARGET=node.address())
            await eventually_ready(caller)
            yield trainer, caller


async def eventually_ready(caller: Caller) -> None:
    async def is_ready() -> bool:
        return (await caller.node()).state is NodeState.READY

    await eventually(is_ready)


async def approved(caller: Caller, name: str, spec: bytes, size: int) -> resources_pb2.Approval:
    message = to_message(estimate(host_bytes=size * MIB), resources_pb2.Estimate)
    request = service_pb2.ReserveRequest(run=name, resolved_spec=spec, estimate=message)
    approval: resources_pb2.Approval = (await caller.gateway.Reserve(request)).approval
    assert approval.token
    return approval


async def test_memory_is_held_from_the_start_to_the_end_of_a_run(pair: Pair, name: str) -> None:
    trainer, caller = pair
    spec = trainer.spec(["usage", 600 * MIB], *WAITING)
    await trainer.start_run(name, spec, await approved(caller, name, spec, 500))
    await trainer.until(name, RUNNING)
    assert await caller.held() == {name: "active"}

    async def reported() -> bool:
        (held,) = (await caller.node()).reservations
        return any(amount.used_bytes == 600 * MIB for amount in held.amounts)

    await eventually(reported)
    (trainer.run_dir(name) / "go").touch()
    assert (await trainer.ended(name)).state == SUCCEEDED
    assert await caller.held() == {}


async def test_what_is_signed_is_what_the_worker_gets(pair: Pair, name: str) -> None:
    trainer, caller = pair
    spec = trainer.spec(*WAITING)
    approval = await approved(caller, name, spec, 300)
    await trainer.start_run(name, spec, approval)
    amounts = {
        each["device"]: each["reserved_bytes"] for each in trainer.read_json(name, "run.json")["amounts"]
    }
    assert amounts == {each.device: each.reserved_bytes for each in approval.amounts}
    await trainer.cancel(name, grace_s=0)
    await trainer.ended(name)


async def test_a_changed_token_is_refused_by_the_node(pair: Pair, name: str) -> None:
    trainer, caller = pair
    spec = trainer.spec(*WAITING)
    approval = await approved(caller, name, spec, 100)
    header, payload, signature = approval.token.split(".")
    approval.token = f"{header}.{payload}.{signature[::-1]}"
    async with refused("APPROVAL_REFUSED"):
        await trainer.start_run(name, spec, approval)
    assert (await trainer.get(name)).state == LOST
    assert await caller.held() == {}


async def test_an_approval_that_was_used_is_used_up(pair: Pair, name: str) -> None:
    trainer, caller = pair
    spec = trainer.spec(["started"], ["succeed"])
    approval = await approved(caller, name, spec, 100)
    await trainer.start_run(name, spec, approval)
    await trainer.ended(name)
    # For itself: the same run. For another: refused. Once the run is gone: refused.
    assert (await trainer.start_run(name, spec, approval)).state == SUCCEEDED
    async with refused("APPROVAL_REFUSED"):
        await trainer.start_run(f"{name}0", spec, approval)
    await trainer.delete(name)
    async with refused("STALE_ATTEMPT"):
        await trainer.start_run(name, spec, approval)


async def test_a_lost_run_is_released(pair: Pair, name: str) -> None:
    trainer, caller = pair
    spec = trainer.spec(["started"], ["die"])
    await trainer.start_run(name, spec, await approved(caller, name, spec, 100))
    assert (await trainer.ended(name)).state == LOST
    assert await caller.held() == {}


async def test_a_reservation_whose_run_is_lost_here_is_released(pair: Pair, name: str) -> None:
    trainer, caller = pair
    spec = trainer.spec(*WAITING)
    approval = await approved(caller, name, spec, 100)
    await caller.activate(name, approval.token, approval.spec_sha256)

    async def released() -> bool:
        return await caller.held() == {}

    await eventually(released)
