"""The node as others see it: the inventory, what stands on it, and whether it takes jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from services.hardware import __version__
from services.hardware.admission.capacity import account
from services.hardware.inventory.survey import Inventory
from services.hardware.resources import Cpu, Gpu, Node, NodeState, Reservation, Software

# What a device may drift by before anybody is told: a hundredth of it.
_DRIFT = 0.01


@dataclass(frozen=True)
class Trainer:
    """The node's trainer, as it reported itself."""

    address: str
    software: Software


@dataclass(frozen=True)
class Identity:
    """What stays the same about a node."""

    name: str
    address: str
    capacity_bytes: Mapping[str, int]


def snapshot(
    identity: Identity,
    inventory: Inventory,
    reservations: Sequence[Reservation],
    trainer: Trainer | None,
    *,
    knows_promises: bool,
) -> Node:
    """Return the node at this moment. `knows_promises`: whether its journal is there, or was made anew."""
    reason = _not_ready(trainer, knows_promises=knows_promises)
    return Node(
        name=identity.name,
        state=NodeState.NOT_READY if reason else NodeState.READY,
        state_reason=reason,
        boot_id=inventory.boot_id,
        address=identity.address,
        trainer_address="" if trainer is None else trainer.address,
        system=inventory.system,
        cpu=inventory.cpu,
        gpus=inventory.gpus,
        software=None if trainer is None else trainer.software,
        devices=account(inventory, reservations, identity.capacity_bytes),
        reservations=tuple(reservations),
        observe_time=datetime.now(UTC),
        version=__version__,
        problems=inventory.problems,
    )


def differs(before: Node, now: Node) -> bool:
    """Say whether a change is worth telling: anything but time, load, heat and a little memory."""
    # A GPU more or less shows below: here it is enough to compare what both have.
    drifts = [
        abs(a.available_bytes - b.available_bytes) > _DRIFT * b.total_bytes
        for a, b in zip(before.devices, now.devices, strict=False)
    ]
    return any(drifts) or _lasting(before) != _lasting(now)


def _not_ready(trainer: Trainer | None, *, knows_promises: bool) -> str:
    # The graver reason first: the trainer reports itself again by itself.
    if not knows_promises:
        return "its journal of reservations is gone and the gateway has not yet said which runs live on it"
    return "no trainer has reported itself" if trainer is None else ""


# What changes all the time is set to nothing, so that the rest can be compared as a whole.
def _lasting(node: Node) -> Node:
    return replace(
        node,
        cpu=None if node.cpu is None else _lasting_cpu(node.cpu),
        gpus=tuple(map(_lasting_gpu, node.gpus)),
        software=None if node.software is None else replace(node.software, report_time=None),
        devices=tuple(replace(d, outside_bytes=0, available_bytes=0, held_bytes=0) for d in node.devices),
        reservations=tuple(_lasting_reservation(held) for held in node.reservations),
        observe_time=None,
    )


def _lasting_cpu(cpu: Cpu) -> Cpu:
    return replace(cpu, utilization=0.0)


def _lasting_gpu(gpu: Gpu) -> Gpu:
    return replace(gpu, free_bytes=0, utilization=0.0, temperature_celsius=0, power_watts=0.0, processes=())


def _lasting_reservation(held: Reservation) -> Reservation:
    return replace(
        held, expire_time=None, amounts=tuple(replace(amount, used_bytes=0) for amount in held.amounts)
    )
