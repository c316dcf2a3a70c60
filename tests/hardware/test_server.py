import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from services.common.channels import connect
from services.common.wire import to_domain
from services.hardware.resources import Node
from services.hardware.settings import HardwareSettings
from tests.hardware.conftest import Start
from tests.hardware.reserving import calling
from weighbridge.hardware.v1 import service_pb2

HEAVY = ("torch", "transformers", "peft", "huggingface_hub", "numpy")


def test_the_serving_process_imports_no_library_of_models() -> None:
    code = f"import services.hardware.server, sys; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_a_node_answers_its_health_check_and_has_no_torch_in_it(start: Start) -> None:
    server = start()
    async with connect(server.address()) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "weighbridge.hardware.v1.NodeService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with calling(server) as caller:
        await caller.reserve("runs/a-1", 1)
    maps = await asyncio.to_thread(Path(f"/proc/{server.process.pid}/maps").read_text)
    assert "libtorch" not in maps


async def test_one_process_holds_both_roles(start: Start) -> None:
    server = start(WEIGHBRIDGE_ROLES="node,estimator")
    async with connect(server.address()) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("NodeService", "EstimatorService"):
            request = health_pb2.HealthCheckRequest(service=f"weighbridge.hardware.v1.{name}")
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
    server.terminate()
    assert await asyncio.to_thread(server.process.wait) == 0


async def test_a_node_shows_the_machine_that_it_is_on(start: Start) -> None:
    async with calling(start()) as caller:
        node = await caller.node()
    assert node.system is not None
    assert node.system.hostname
    assert node.cpu is not None
    assert node.cpu.usable_cores > 0
    assert {
        device.id: device.total_bytes > 0 for device in node.devices if device.id in ("host", "disk")
    } == {
        "host": True,
        "disk": True,
    }
    assert node.observe_time is not None


async def test_a_watch_begins_with_the_node_and_goes_on_with_its_changes(start: Start) -> None:
    async with calling(start(), ready=False) as caller:
        watch = caller.gateway.WatchNode(service_pb2.WatchNodeRequest())
        first = to_domain(Node, (await watch.read()).node)
        assert first.state == "not_ready"
        await caller.report_trainer()
        await caller.reserve("runs/a-1", 1)
        while not (seen := to_domain(Node, (await watch.read()).node)).reservations:
            pass
        assert seen.state == "ready"
        await caller.release("runs/a-1")
        while to_domain(Node, (await watch.read()).node).reservations:
            pass
        watch.cancel()


async def test_a_nodes_id_is_drawn_once(start: Start, tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        server = start("drawn", WEIGHBRIDGE_NODE="")
        async with calling(server) as caller:
            names.append((await caller.node()).name)
        server.terminate()
        await asyncio.to_thread(server.process.wait)
    assert names[0] == names[1] != "nodes/"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roles": "node,queen"}, "roles"),
        ({"roles": ""}, "names no role"),
        ({"node": "Lab 1"}, "node"),
        ({"gateway_target": "127.0.0.1:1"}, "calls this node back"),
        ({"capacity_bytes": {"host": -1}}, "capacity_bytes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HardwareSettings(**settings)  # type: ignore[arg-type]
