"""How much of each device jobs may have, have, and can still get."""

from collections.abc import Mapping, Sequence

from services.hardware.inventory.memory import Space
from services.hardware.inventory.survey import Inventory
from services.hardware.resources import DISK, HOST, Device, DeviceAmount, MemoryKind, Reservation


def account(
    inventory: Inventory, reservations: Sequence[Reservation], capacity_bytes: Mapping[str, int]
) -> tuple[Device, ...]:
    """Return the node's devices as they stand: GPUs, host memory, disk.

    A run counts with the larger of what it was promised and what it uses, so one that already holds its
    memory is not counted twice. What is used and no run has reported belongs to processes outside the
    platform; until a run's first report its memory counts as theirs too, which delays a job and never admits
    one. `capacity_bytes` lowers what jobs may have: then outside processes live on the rest first.
    """
    spaces = [(gpu.uuid, MemoryKind.GPU, Space(gpu.total_bytes, gpu.free_bytes)) for gpu in inventory.gpus]
    spaces += [(HOST, MemoryKind.HOST, inventory.host), (DISK, MemoryKind.DISK, inventory.disk)]
    return tuple(
        _device(name, kind, space, amounts_on(name, reservations), capacity_bytes.get(name))
        for name, kind, space in spaces
    )


def amounts_on(device: str, reservations: Sequence[Reservation]) -> list[DeviceAmount]:
    """Return what each reservation has of a device."""
    return [amount for held in reservations for amount in held.amounts if amount.device == device]


def _device(
    name: str, kind: MemoryKind, space: Space, amounts: Sequence[DeviceAmount], limit_bytes: int | None
) -> Device:
    capacity_bytes = space.total_bytes if limit_bytes is None else min(limit_bytes, space.total_bytes)
    # The larger of the two: a promise is kept free until it is used, and what is used is gone whatever was
    # promised.
    held_bytes = sum(max(amount.reserved_bytes, amount.used_bytes) for amount in amounts)
    outside_bytes = max(0, space.used_bytes - sum(amount.used_bytes for amount in amounts))
    # Measured use is that of everybody: what runs report of it is theirs, the rest is not the platform's.
    usable_bytes = min(capacity_bytes, space.total_bytes - outside_bytes)
    return Device(
        id=name,
        kind=kind,
        total_bytes=space.total_bytes,
        capacity_bytes=capacity_bytes,
        held_bytes=held_bytes,
        outside_bytes=outside_bytes,
        available_bytes=max(0, usable_bytes - held_bytes),
    )
