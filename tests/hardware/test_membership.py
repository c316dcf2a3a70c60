import asyncio
import hashlib
from collections.abc import Callable

from services.hardware.resources import NodeState
from services.hardware.units import MIB
from services.hardware.weighing import Decision
from tests.common.processes import ServiceProcess
from tests.hardware.conftest import NODE, Start
from tests.hardware.reserving import CAPACITY, SPEC, Caller, calling
from tests.hardware.sample_gateway import gateway
from weighbridge.common.v1 import training_spec_pb2
from weighbridge.gateway.v1 import service_pb2
from weighbridge.hardware.v1 import resources_pb2

SHA = hashlib.sha256(SPEC).hexdigest()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what changes is another process
        await asyncio.sleep(0.02)


def start_member(start: Start, address: str, port: int, **settings: str) -> ServiceProcess:
    return start(
        WEIGHBRIDGE_GATEWAY_TARGET=address,
        WEIGHBRIDGE_PORT=str(port),
        WEIGHBRIDGE_HEARTBEAT="0.3",
        **CAPACITY,
        **settings,
    )


async def test_a_node_registers_and_reports_itself(start: Start, unused_port: int) -> None:
    async with gateway() as (fleet, address):
        start_member(start, address, unused_port)
        await until(lambda: fleet.reports)
    node, has_journal = fleet.registrations[0]
    assert (node.name, node.address, has_journal) == (f"nodes/{NODE}", f"127.0.0.1:{unused_port}", False)
    assert fleet.tokens == {"Bearer hardware-token"}
    assert fleet.reports[0].cpu is not None
    assert {device.id for device in fleet.reports[0].devices} >= {"host", "disk"}
    assert fleet.reports[0].boot_id


async def test_a_change_is_reported_before_the_next_beat(start: Start, unused_port: int) -> None:
    async with gateway() as (fleet, address):
        server = start_member(start, address, unused_port)
        await until(lambda: fleet.reports)
        async with calling(server) as caller:
            await until(lambda: fleet.reports[-1].state is NodeState.READY)
            await caller.reserve("runs/a-1", 600)
            await until(lambda: fleet.reports[-1].reservations)
            await caller.release("runs/a-1")
            await until(lambda: not fleet.reports[-1].reservations)
    assert len(fleet.registrations) == 1


async def test_a_node_outlives_its_gateway_and_registers_when_it_comes_back(
    start: Start, unused_port: int
) -> None:
    server = start_member(start, f"127.0.0.1:{unused_port}", 0, WEIGHBRIDGE_ADVERTISE="127.0.0.1:1")
    async with calling(server) as caller:
        async with gateway(unused_port) as (fleet, _):
            await until(lambda: fleet.reports)
            assert (await caller.reserve("runs/a-1", 600)).decision is Decision.ADMIT
        async with gateway(unused_port) as (fleet, _):
            fleet.forget = True
            await until(lambda: fleet.registrations)
            await until(lambda: fleet.reports and fleet.reports[-1].reservations)
            assert fleet.registrations[0][1] is True
        assert await caller.held() == {"runs/a-1": "held"}


def live_attempt(run: str, size: int) -> service_pb2.LiveAttempt:
    approval = resources_pb2.Approval(
        token="signed by a key that is lost",
        run=run,
        node=f"nodes/{NODE}",
        amounts=[resources_pb2.DeviceAmount(device="host", reserved_bytes=size * MIB)],
        device=training_spec_pb2.DEVICE_KIND_CPU,
        spec_sha256=SHA,
    )
    return service_pb2.LiveAttempt(run=run, approval=approval)


async def test_a_node_without_a_journal_admits_nothing_until_it_knows_what_lives_on_it(
    start: Start, unused_port: int
) -> None:
    server = start_member(start, f"127.0.0.1:{unused_port}", 0, WEIGHBRIDGE_ADVERTISE="127.0.0.1:1")
    async with calling(server) as caller:
        early = await caller.reserve("runs/b-1", 100)
        assert (early.decision, "journal" in early.summary) == (Decision.WAIT, True)
        async with gateway(unused_port) as (fleet, _):
            fleet.live_attempts = [live_attempt("runs/a-1", 600), service_pb2.LiveAttempt(run="runs/c-1")]
            await until(lambda: fleet.reports)
        assert await caller.held() == {"runs/a-1": "active"}
        assert (await caller.reserve("runs/b-1", 600)).decision is Decision.WAIT
        assert (await caller.reserve("runs/b-1", 300)).decision is Decision.ADMIT
    server.kill()
    # It was written down: the gateway is not needed a second time.
    again = start_member(start, f"127.0.0.1:{unused_port}", 0, WEIGHBRIDGE_ADVERTISE="127.0.0.1:1")
    async with calling(again) as caller:
        assert await caller.held() == {"runs/a-1": "active", "runs/b-1": "held"}


async def test_a_release_before_the_journal_is_known_is_not_undone_by_it(
    start: Start, unused_port: int
) -> None:
    server = start_member(start, f"127.0.0.1:{unused_port}", 0, WEIGHBRIDGE_ADVERTISE="127.0.0.1:1")
    async with calling(server) as caller:
        await caller.release("runs/a-1")
        async with gateway(unused_port) as (fleet, _):
            fleet.live_attempts = [live_attempt("runs/a-1", 600)]
            await until(lambda: fleet.reports)
        assert await caller.held() == {}


async def left_s(caller: Caller) -> float | None:
    response = await caller.report_trainer()
    return response.lease.ToNanoseconds() / 1e9 if response.HasField("lease") else None


async def test_the_trainer_is_told_of_the_lease_also_by_a_service_that_was_killed(
    start: Start, unused_port: int
) -> None:
    async with gateway() as (fleet, address):
        fleet.lease_s = 900
        server = start_member(start, address, unused_port)
        await until(lambda: fleet.reports)
        async with calling(server) as caller:
            before_s = await left_s(caller)
        server.kill()
    again = start_member(start, address, 0, WEIGHBRIDGE_ADVERTISE="127.0.0.1:1")
    async with calling(again) as caller:
        after_s = await left_s(caller)
    assert before_s is not None
    assert after_s is not None
    assert 0 < after_s < before_s < 900


async def test_each_acknowledged_report_extends_the_lease_and_silence_ends_it(
    start: Start, unused_port: int
) -> None:
    async with gateway() as (fleet, address):
        fleet.lease_s = 1
        server = start_member(start, address, unused_port)
        await until(lambda: fleet.reports)
        async with calling(server) as caller:
            fleet.lease_s = 900
            # Reported at once, and acknowledged with the longer lease.
            await caller.reserve("runs/a-1", 600)
            while (await left_s(caller) or 0) < 10:  # noqa: ASYNC110 - what changes is another process
                await asyncio.sleep(0.02)
            fleet.lease_s = 1
            await caller.release("runs/a-1")
            while await left_s(caller) != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_fleet_of_one_has_no_lease(start: Start, unused_port: int) -> None:
    async with gateway() as (fleet, address):
        server = start_member(start, address, unused_port)
        await until(lambda: fleet.reports)
        async with calling(server) as caller:
            assert await left_s(caller) is None
