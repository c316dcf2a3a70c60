"""What a verdict says, in sentences that a person can act on."""

from collections.abc import Sequence

from services.hardware.resources import DISK, HOST, Device, DeviceAmount, MemoryKind, Node
from services.hardware.units import human
from services.hardware.weighing import Decision, Holder, LimitCheck

# Of many holders the largest are worth waiting for.
_MOST_HOLDERS = 3
_REMEDIES = {
    MemoryKind.GPU: "lower the batch size, train an adapter (lora), or use a larger GPU",
    MemoryKind.HOST: "lower the batch size, train an adapter (lora), or use a larger node",
    MemoryKind.DISK: "lower checkpointing.save_total_limit, or use a node with a larger disk",
}


def device_message(node: Node, device: Device, check: LimitCheck, *, taken: bool, remedy: str = "") -> str:
    """Return one memory limit in words: what is needed, what there is, what to do."""
    place = _place(node, device.id)
    needed = f"{human(check.needed_bytes)} of {place} are needed"
    if not check.within_capacity:
        advice = remedy or _REMEDIES[device.kind]
        return f"{needed}, and jobs may have {human(check.capacity_bytes)} at most: {advice}"
    if check.satisfied:
        return f"{needed}, {human(check.available_bytes)} are free"
    if taken:
        runs = ", ".join(holder.holder for holder in check.holders if holder.holder != "outside")
        return f"{place} belongs to {runs}: wait, or set placement.shared in both jobs"
    free = f"{human(check.available_bytes)} of {human(check.capacity_bytes)} are free now"
    return f"{needed}, {free}{_held_by(check.holders)}"


def summarize(
    node: Node, decision: Decision, limits: Sequence[LimitCheck], amounts: Sequence[DeviceAmount]
) -> str:
    """Return the verdict in one sentence."""
    if decision is Decision.ADMIT:
        return f"fits {node.name} now: {_taken(node, amounts)}"
    if decision is Decision.WAIT:
        waiting = [limit.message for limit in limits if not limit.satisfied]
        return f"fits {node.name} but has to wait: {'; '.join(waiting)}"
    impossible = [limit.message for limit in limits if not limit.within_capacity]
    return f"cannot run on {node.name}: {'; '.join(impossible)}"


def _taken(node: Node, amounts: Sequence[DeviceAmount]) -> str:
    return ", ".join(f"{human(amount.reserved_bytes)} of {_place(node, amount.device)}" for amount in amounts)


def _place(node: Node, device: str) -> str:
    if device == HOST:
        return "host memory"
    if device == DISK:
        return "disk"
    gpu = next((gpu for gpu in node.gpus if gpu.uuid == device), None)
    return f"GPU {device}" if gpu is None else f"GPU {gpu.index} ({gpu.product})"


def _held_by(holders: Sequence[Holder]) -> str:
    largest = sorted(holders, key=_size, reverse=True)
    named = [
        f"{human(_size(holder))} by {_name(holder)}" for holder in largest[:_MOST_HOLDERS] if _size(holder)
    ]
    more = len(largest) - _MOST_HOLDERS
    return (f"; held: {', '.join(named)}" if named else "") + (f" and {more} more" if more > 0 else "")


def _size(holder: Holder) -> int:
    return max(holder.reserved_bytes, holder.used_bytes)


def _name(holder: Holder) -> str:
    return "processes outside the platform" if holder.holder == "outside" else holder.holder
