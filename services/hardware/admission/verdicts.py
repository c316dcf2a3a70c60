"""Whether a job fits a node: a pure function of the node's snapshot, the job and its estimate."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.specs import DeviceKind, ResolvedSpec
from services.hardware.admission.costs import costs_of
from services.hardware.admission.limits import check_device, check_node, check_pin
from services.hardware.admission.rules import Case, broken_rules, capable_gpus
from services.hardware.admission.sentences import summarize
from services.hardware.resources import DISK, HOST, Device, DeviceAmount, MemoryKind, Node
from services.hardware.weighing import (
    Decision,
    Estimate,
    LimitCheck,
    LimitKind,
    PlacementEstimate,
    Verdict,
)


def weigh(node: Node, resolved: ResolvedSpec, estimate: Estimate) -> Verdict:
    """Hold a job's estimate against a node's snapshot.

    ADMIT exactly when every limit is satisfied, REJECT exactly when one is not within capacity, else WAIT.
    """
    device = device_kind(node, resolved)
    case = Case(node, resolved, device)
    placement = next((p for p in estimate.placements if p.device is device), None)
    limits = [check_node(node), *check_pin(node, resolved), *_capabilities(case, placement)]
    amounts: list[DeviceAmount] = []
    if placement is not None:
        remedy = estimate.remedy
        for needs in (
            _gpu_needs(case, placement, remedy),
            _host_needs(node, placement, remedy),
            _disk_needs(node, estimate),
        ):
            limits += needs.limits
            amounts += needs.amounts
    decision = _decide(limits)
    return Verdict(
        node=node.name,
        decision=decision,
        summary=summarize(node, decision, limits, amounts),
        limits=tuple(sorted(limits, key=_violated_first)),
        warnings=costs_of(case),
        device=device,
        amounts=tuple(amounts) if decision is Decision.ADMIT else (),
    )


def device_kind(node: Node, resolved: ResolvedSpec) -> DeviceKind:
    """Return the kind of device that would train: what the spec says, or a GPU where the node has one."""
    placement = resolved.spec.placement
    asked = DeviceKind.AUTO if placement is None else placement.device or DeviceKind.AUTO
    if asked is not DeviceKind.AUTO:
        return asked
    return DeviceKind.CUDA if node.gpus else DeviceKind.CPU


def reserved_already(node: str, device: DeviceKind, amounts: tuple[DeviceAmount, ...]) -> Verdict:
    """Return the verdict on a run that was promised its memory before: it is not weighed again."""
    summary = f"has its memory on {node} already"
    return Verdict(node=node, decision=Decision.ADMIT, summary=summary, device=device, amounts=amounts)


@dataclass(frozen=True)
class _Needs:
    """Checks of one kind of memory, and what would be reserved of it."""

    limits: tuple[LimitCheck, ...] = ()
    amounts: tuple[DeviceAmount, ...] = ()


def _capabilities(case: Case, placement: PlacementEstimate | None) -> list[LimitCheck]:
    broken = broken_rules(case)
    if placement is None:
        broken["placement"] = (
            f"the estimate says nothing about training on {case.device}: estimate the job again"
        )
    return [
        LimitCheck(
            kind=LimitKind.CAPABILITY, subject=name, satisfied=False, within_capacity=False, message=reason
        )
        for name, reason in broken.items()
    ]


def _gpu_needs(case: Case, placement: PlacementEstimate, remedy: str) -> _Needs:
    """Choose the GPUs that fit most tightly; where too few do, tell of every one that could."""
    if placement.gpu is None or not case.node.gpus:
        return _Needs()
    needed_bytes, count = placement.gpu.needed_bytes, max(1, placement.device_count)
    shared = case.spec.placement is not None and bool(case.spec.placement.shared)
    # Where none is capable a rule has said so; the memory is told of all, so that both reasons are seen at
    # once.
    uuids = {gpu.uuid for gpu in capable_gpus(case) or case.node.gpus}
    devices = [device for device in case.node.devices if device.id in uuids]
    checks = [
        (check_device(case.node, device, needed_bytes, shared=shared, remedy=remedy), device)
        for device in devices
    ]
    fitting = sorted((c for c in checks if c[0].satisfied), key=lambda c: c[1].available_bytes)
    # The tightest that fits: large holes are kept for those who need them.
    if len(fitting) >= count:
        chosen = fitting[:count]
        amounts = tuple(DeviceAmount(device=d.id, reserved_bytes=needed_bytes) for _, d in chosen)
        return _Needs(tuple(check for check, _ in chosen), amounts)
    possible = [check for check, _ in checks if check.within_capacity]
    # Only what could do is told: a GPU that is too small is no reason to reject where a larger one is busy.
    if len(possible) >= count:
        return _Needs(tuple(check for check in possible if not check.satisfied))
    return _Needs(
        (*(check for check, _ in checks if not check.within_capacity), *_too_few(case, count, checks))
    )


def _too_few(case: Case, count: int, checks: Sequence[tuple[LimitCheck, Device]]) -> tuple[LimitCheck, ...]:
    if count <= len(checks):
        return ()
    message = (
        f"the job needs {count} GPUs and {case.node.name} has {len(checks)}: lower placement.device_count"
    )
    return (
        LimitCheck(
            kind=LimitKind.DEVICE_COUNT,
            subject="device_count",
            satisfied=False,
            within_capacity=False,
            message=message,
        ),
    )


def _host_needs(node: Node, placement: PlacementEstimate, remedy: str) -> _Needs:
    return _single(node, HOST, 0 if placement.host is None else placement.host.needed_bytes, remedy)


def _disk_needs(node: Node, estimate: Estimate) -> _Needs:
    return _single(node, DISK, estimate.disk_bytes)


def _single(node: Node, name: str, needed_bytes: int, remedy: str = "") -> _Needs:
    device = next((device for device in node.devices if device.id == name), None)
    # A snapshot of an older version may lack one: then it has nothing of it.
    if device is None:
        kind = MemoryKind.HOST if name == HOST else MemoryKind.DISK
        device = Device(id=name, kind=kind, total_bytes=0, capacity_bytes=0)
    check = check_device(node, device, needed_bytes, shared=True, remedy=remedy)
    return _Needs((check,), (DeviceAmount(device=name, reserved_bytes=needed_bytes),))


def _decide(limits: Sequence[LimitCheck]) -> Decision:
    if all(limit.satisfied for limit in limits):
        return Decision.ADMIT
    return Decision.WAIT if all(limit.within_capacity for limit in limits) else Decision.REJECT


def _violated_first(limit: LimitCheck) -> tuple[bool, bool]:
    return limit.satisfied, limit.within_capacity
