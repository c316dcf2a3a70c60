"""The hardware service: `python -m services.hardware.server`, in the roles that WEIGHBRIDGE_ROLES names."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from services.common.channels import connect
from services.common.lease import Lease
from services.common.names import node_name
from services.common.server import Background, Registered, run
from services.hardware.admission.approvals import Signer
from services.hardware.admission.desk import Desk
from services.hardware.admission.promises import Promises
from services.hardware.admission.snapshot import Identity
from services.hardware.admission.view import NodeView
from services.hardware.estimate.process import EstimatorProcess
from services.hardware.inventory.survey import Survey
from services.hardware.membership import Membership
from services.hardware.peers import Gateway
from services.hardware.settings import HardwareSettings
from services.hardware.wire import EstimatorServicer, NodeServicer
from weighbridge.hardware.v1 import service_pb2, service_pb2_grpc

_NAMES = service_pb2.DESCRIPTOR.services_by_name


@dataclass
class _Parts:
    """What a process is made of, role by role."""

    servicers: list[Registered] = field(default_factory=list)
    background: list[Background] = field(default_factory=list)


async def serve(settings: HardwareSettings) -> None:
    """Serve until asked to stop.

    Raises:
        RuntimeError: the port or the state directory is taken by another process.
        ValueError, OSError: a key, a token or the identities file cannot be read.
    """
    parts = _Parts()
    async with AsyncExitStack() as stack:
        if "node" in settings.roles:
            await _add_node(settings, parts, stack)
        if "estimator" in settings.roles:
            _add_estimator(settings, parts)
        await run(settings, parts.servicers, background=parts.background)


async def _add_node(settings: HardwareSettings, parts: _Parts, stack: AsyncExitStack) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    name = node_name(settings.node_id())
    promises = Promises(settings.state_dir, settings.held_ttl_s)
    # Last of all: nothing is written any more once the journal can be another process's.
    stack.callback(promises.close)
    signer = Signer.load(settings.state_dir / "approval_key.pem", name)
    identity = Identity(name, settings.address, settings.capacity_bytes)
    view = NodeView(identity, Survey(settings.state_dir), promises)
    desk = Desk(view, promises, signer, settings.held_ttl_s)
    lease = Lease(settings.state_dir / "lease.json")
    parts.servicers.append(
        Registered(
            service_pb2_grpc.add_NodeServiceServicer_to_server,
            NodeServicer(view, desk, lease),
            _NAMES["NodeService"].full_name,
        )
    )
    if not settings.gateway_target:
        # Nobody but this node could have promised anything.
        await desk.adopt([])
        return
    channel = await stack.enter_async_context(
        connect(settings.gateway_target, token=settings.token(), tls=settings.tls_ca)
    )
    gateway = Gateway(channel, settings.gateway_target)
    parts.background.append(Membership(gateway, view, desk, lease, settings.heartbeat_s).keep)


def _add_estimator(settings: HardwareSettings, parts: _Parts) -> None:
    process = EstimatorProcess(settings, settings.estimate_timeout_s)
    parts.servicers.append(
        Registered(
            service_pb2_grpc.add_EstimatorServiceServicer_to_server,
            EstimatorServicer(process),
            _NAMES["EstimatorService"].full_name,
        )
    )
    parts.background.append(process.work)


def main() -> None:
    """Read the settings from the environment and serve."""
    asyncio.run(serve(HardwareSettings()))


if __name__ == "__main__":
    main()
