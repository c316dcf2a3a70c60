"""Nodes as people read them: what each device has, who holds it, and what is left."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from weighbridge.cli import output, words
from weighbridge.common.v1.training_spec_pb2 import Task
from weighbridge.gateway.v1.resources_pb2 import FleetNode, FleetNodeState
from weighbridge.hardware.v1.resources_pb2 import Device, MemoryKind, Node
from weighbridge.names import short

_STYLES = {"READY": "green", "NOT_READY": "yellow", "UNREACHABLE": "red", "LOST": "bold red"}


def node_table(nodes: Iterable[FleetNode]) -> Table:
    """Return one row a device: capacity, held, outside, available."""
    figures = ("CAPACITY", "HELD", "OUTSIDE", "AVAILABLE", "RUNS")
    made = output.table("NODE", "STATE", "DEVICE", *figures, right=figures, prose=("NODE", "DEVICE"))
    for node in nodes:
        name, state = Text(short(node.name), "bold"), _state(node)
        runs = str(len(node.runs))
        for device in node.snapshot.devices:
            made.add_row(name, state, device_name(node.snapshot, device.id), *_figures(device), runs)
            name, state, runs = Text(""), Text(""), ""
        if not node.snapshot.devices:
            made.add_row(name, state, "", "", "", "", "", runs)
    return made


def remarks(nodes: Iterable[FleetNode]) -> list[str]:
    """Return what a node is, and what is wrong with it, one sentence each."""
    lines = []
    for node in nodes:
        name = short(node.name)
        lines.append(f"{name}: {_description(node.snapshot)}")
        if node.state_reason and node.state != FleetNodeState.FLEET_NODE_STATE_READY:
            lines.append(f"{name}: {node.state_reason}")
        lines += [f"{name}: {problem}" for problem in node.snapshot.problems]
    return lines


def device_name(node: Node, device: str) -> str:
    """Return `host memory`, `disk`, or a GPU's index and product."""
    for gpu in node.gpus:
        if gpu.uuid == device:
            return f"GPU {gpu.index} {gpu.product}"
    return "host memory" if device == "host" else device


def _state(node: FleetNode) -> Text:
    name = FleetNodeState.Name(node.state).removeprefix("FLEET_NODE_STATE_")
    return Text(name, _STYLES.get(name, "yellow"))


def _figures(device: Device) -> tuple[str, ...]:
    values = (device.capacity_bytes, device.held_bytes, device.outside_bytes, device.available_bytes)
    return tuple(map(words.size, values))


def _description(node: Node) -> str:
    parts = [f"{node.cpu.usable_cores:g} cores ({node.cpu.model})" if node.cpu.model else ""]
    parts += [_gpu(node, device) for device in node.devices if device.kind == MemoryKind.MEMORY_KIND_GPU]
    parts.append(
        f"torch {node.software.packages['torch']}" if "torch" in node.software.packages else "no trainer yet"
    )
    tasks = [words.enum_word(Task.Name(task), "TASK_") for task in node.software.tasks]
    parts.append("trains " + ", ".join(tasks) if tasks else "")
    return "; ".join(filter(None, parts))


def _gpu(node: Node, device: Device) -> str:
    for gpu in node.gpus:
        if gpu.uuid == device.id:
            return (
                f"GPU {gpu.index}: compute {gpu.compute_capability}, driver {gpu.driver_version}, {gpu.uuid}"
            )
    return ""
