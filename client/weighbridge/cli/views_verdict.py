"""A verdict as people read it: the sentence, then per limit what is needed, what there is, who has it."""

from collections.abc import Collection, Iterator

from rich.table import Table
from rich.text import Text

from weighbridge.cli import output, words
from weighbridge.common.v1.training_spec_pb2 import DeviceKind
from weighbridge.gateway.v1.resources_pb2 import JobVerdict
from weighbridge.hardware.v1.resources_pb2 import (
    Decision,
    Estimate,
    Holder,
    LimitCheck,
    LimitKind,
    MemoryEstimate,
    MemoryPartKind,
    Plan,
    PlanChange,
    Verdict,
)
from weighbridge.names import short

DECISIONS = {
    Decision.DECISION_ADMIT: ("ADMIT", "bold green"),
    Decision.DECISION_WAIT: ("WAIT", "bold yellow"),
    Decision.DECISION_REJECT: ("REJECT", "bold red"),
}
_MEMORY = (LimitKind.LIMIT_KIND_GPU_MEMORY, LimitKind.LIMIT_KIND_HOST_MEMORY, LimitKind.LIMIT_KIND_DISK)


def show_verdict(verdict: JobVerdict, estimate: Estimate) -> None:
    """Print the whole verdict."""
    output.say(sentence(verdict))
    for line in need(estimate, {node.device for node in verdict.nodes if node.device}):
        output.say(line, "dim")
    for node in verdict.nodes:
        _show_node(node, told=verdict.summary)
    if verdict.plans:
        output.say("\nPlans that fit, cheapest change first:", "bold")
        for number, plan in enumerate(verdict.plans, 1):
            output.say(_plan(number, plan))


def sentence(verdict: JobVerdict) -> Text:
    """Return the decision and the sentence that a person can act on."""
    word, style = DECISIONS.get(verdict.decision, ("not weighed", "dim"))
    text = verdict.summary
    if verdict.decision == Decision.DECISION_REJECT and "; " in text:
        # Several limits are violated: one line each.
        text = text.replace(": ", ":\n  - ", 1).replace("; ", "\n  - ")
    return Text.assemble((f"{word}: ", style), text)


def need(estimate: Estimate, devices: Collection[int] = ()) -> Iterator[str]:
    """Yield what a job needs on these kinds of device, or on all that it may use."""
    for placement in estimate.placements:
        if devices and placement.device not in devices:
            continue
        kind = words.enum_word(DeviceKind.Name(placement.device), "DEVICE_KIND_")
        if placement.HasField("gpu"):
            count = placement.device_count
            yield from _memory(f"on each of {count} GPUs" if count > 1 else "on a GPU", placement.gpu)
        if placement.HasField("host"):
            yield from _memory(f"of host memory, trained on {kind}", placement.host)
    if estimate.parameter_count:
        trained = (
            f"{words.count(estimate.trainable_parameter_count)} of {words.count(estimate.parameter_count)}"
        )
        yield f"{trained} parameters are trained"


def _memory(where: str, need: MemoryEstimate) -> Iterator[str]:
    total = need.peak_reserved_bytes + need.context_bytes + need.margin_bytes
    yield f"needs {words.size(total)} {where}"
    parts = [(MemoryPartKind.Name(part.kind), part.size_bytes) for part in need.parts]
    parts += [("CONTEXT", need.context_bytes), ("MARGIN", need.margin_bytes)]
    # Largest first; what is below a thousandth is in the way.
    parts = sorted((part for part in parts if part[1] > total / 1000), key=lambda part: -part[1])
    named = [f"{words.enum_word(name, 'MEMORY_PART_KIND_')} {words.size(size)}" for name, size in parts]
    if named:
        yield "  of which " + ", ".join(named)


def limit_lines(verdict: Verdict) -> Iterator[str]:
    """Yield a verdict's limits on memory, one sentence each, for where a table would be in the way."""
    for limit in verdict.limits:
        if limit.kind in _MEMORY:
            available, capacity = words.size(limit.available_bytes), words.size(limit.capacity_bytes)
            held = ", ".join(map(_holder, limit.holders))
            line = f"{_limit_name(limit)}: {words.size(limit.needed_bytes)} needed, {available} available"
            yield f"{line} of {capacity}" + (f" (held: {held})" if held else "")


def _show_node(verdict: Verdict, told: str) -> None:
    word, style = DECISIONS.get(verdict.decision, ("not weighed", "dim"))
    kind = words.enum_word(DeviceKind.Name(verdict.device), "DEVICE_KIND_")
    where = f"{short(verdict.node)}, on {kind}" if verdict.device else short(verdict.node)
    output.say(Text.assemble((f"\n{where}: ", "bold"), (word, style)))
    output.show(_limits(verdict))
    for limit in verdict.limits:
        if not limit.satisfied and limit.message not in told:
            output.say(f"  {limit.message}")
    for warning in verdict.warnings:
        output.say(f"  warning: {warning}", "yellow")


def _limits(verdict: Verdict) -> Table:
    figures = ("NEEDED", "AVAILABLE", "CAPACITY")
    made = output.table("", "LIMIT", *figures, "HELD BY", right=figures, prose=("LIMIT", "HELD BY"))
    for limit in verdict.limits:
        sizes = (limit.needed_bytes, limit.available_bytes, limit.capacity_bytes)
        texts = [words.size(value) for value in sizes] if limit.kind in _MEMORY else ["", "", ""]
        made.add_row(_mark(limit), _limit_name(limit), *texts, ", ".join(map(_holder, limit.holders)))
    return made


def _mark(limit: LimitCheck) -> Text:
    if limit.satisfied:
        return Text("ok", "green")
    return Text("wait", "yellow") if limit.within_capacity else Text("no", "bold red")


def _limit_name(limit: LimitCheck) -> str:
    kind = words.enum_word(LimitKind.Name(limit.kind), "LIMIT_KIND_")
    if limit.kind == LimitKind.LIMIT_KIND_GPU_MEMORY:
        return f"{kind} {limit.subject}"
    return limit.subject if limit.kind == LimitKind.LIMIT_KIND_CAPABILITY and limit.subject else kind


def _holder(holder: Holder) -> str:
    return f"{short(holder.holder)} {words.size(max(holder.reserved_bytes, holder.used_bytes))}"


def _plan(number: int, plan: Plan) -> str:
    return f"  {number}. " + "; ".join(map(_change, plan.changes))


def _change(change: PlanChange) -> str:
    # `from` is a keyword of Python's.
    before = getattr(change, "from") or "default"
    return f"{change.field}: {before} -> {change.to}" + (f" ({change.cost})" if change.cost else "")
