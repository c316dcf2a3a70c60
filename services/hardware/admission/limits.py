"""One limit held against one need: memory of a device, or the node's own state."""

from dataclasses import replace

from services.common.specs import ResolvedSpec
from services.hardware.admission.capacity import amounts_on
from services.hardware.admission.sentences import device_message
from services.hardware.resources import Device, MemoryKind, Node, NodeState
from services.hardware.weighing import Holder, LimitCheck, LimitKind

_KINDS = {
    MemoryKind.GPU: LimitKind.GPU_MEMORY,
    MemoryKind.HOST: LimitKind.HOST_MEMORY,
    MemoryKind.DISK: LimitKind.DISK,
}


def check_device(
    node: Node, device: Device, needed_bytes: int, *, shared: bool, remedy: str = ""
) -> LimitCheck:
    """Hold a need against a device: what it can give now, and what it could were nothing else running.

    Host memory and disk are always shared. A GPU gives nothing while another run has some of it, unless the
    job and all who hold it say that they share. `remedy` is what to do where it never fits; empty: the usual.
    """
    # A capacity is no secret and no promise: it is what REJECT goes by, so that a busy node never rejects.
    taken = device.kind is MemoryKind.GPU and _is_taken(node, device, shared=shared)
    available_bytes = 0 if taken else device.available_bytes
    check = LimitCheck(
        kind=_KINDS[device.kind],
        subject=device.id,
        satisfied=needed_bytes <= available_bytes,
        within_capacity=needed_bytes <= device.capacity_bytes,
        needed_bytes=needed_bytes,
        available_bytes=available_bytes,
        capacity_bytes=device.capacity_bytes,
        holders=_holders(node, device),
    )
    return replace(check, message=device_message(node, device, check, taken=taken, remedy=remedy))


def check_node(node: Node) -> LimitCheck:
    """Say whether the node takes jobs; one that does not may again, so the job waits."""
    ready = node.state is NodeState.READY
    message = "" if ready else f"{node.name} takes no jobs now: {node.state_reason or 'it has not said why'}"
    return LimitCheck(
        kind=LimitKind.NODE_STATE, subject=node.name, satisfied=ready, within_capacity=True, message=message
    )


def check_pin(node: Node, resolved: ResolvedSpec) -> list[LimitCheck]:
    """Refuse every node but the one that the spec names, where it names one."""
    pinned = "" if resolved.spec.placement is None else resolved.spec.placement.node
    if pinned in ("", node.name):
        return []
    message = f"placement.node asks for {pinned}: leave it out to let the job run on {node.name}"
    return [
        LimitCheck(
            kind=LimitKind.NODE_STATE,
            subject="placement.node",
            satisfied=False,
            within_capacity=False,
            message=message,
        )
    ]


def _is_taken(node: Node, device: Device, *, shared: bool) -> bool:
    others = [held for held in node.reservations if amounts_on(device.id, [held])]
    return bool(others) and not (shared and all(held.shared for held in others))


def _holders(node: Node, device: Device) -> tuple[Holder, ...]:
    runs = [
        Holder(holder=held.run, reserved_bytes=amount.reserved_bytes, used_bytes=amount.used_bytes)
        for held in node.reservations
        for amount in amounts_on(device.id, [held])
    ]
    outside = [Holder(holder="outside", used_bytes=device.outside_bytes)] if device.outside_bytes else []
    return (*runs, *outside)
