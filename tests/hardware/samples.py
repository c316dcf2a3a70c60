"""Nodes, jobs and estimates of known sizes."""

from dataclasses import replace
from typing import Any

from services.common.spec_wire import serialize_resolved
from services.common.specs import (
    DatasetFormat,
    DatasetSummary,
    DeviceKind,
    LabelCount,
    ModelSource,
    PlacementOptions,
    ResolvedModel,
    ResolvedSpec,
    Task,
    TrainingSpec,
)
from services.hardware.admission.capacity import account
from services.hardware.inventory.memory import Space
from services.hardware.inventory.survey import Inventory
from services.hardware.resources import (
    Cpu,
    DeviceAmount,
    Gpu,
    Node,
    NodeState,
    Reservation,
    ReservationState,
    Software,
    SystemInfo,
)
from services.hardware.units import GIB
from services.hardware.weighing import Estimate, EstimateMethod, MemoryEstimate, PlacementEstimate

SHA = "ab" * 32
DATASET = DatasetSummary(
    name="projects/default/datasets/digits",
    digest=f"sha256:{'0' * 64}",
    size_bytes=500_000,
    format=DatasetFormat.IMAGE_FOLDER_ZIP,
    example_count=1797,
    labels=tuple(LabelCount(label=str(digit), count=179 + (digit == 3) * 7) for digit in range(10)),
    max_pixels=64,
    unpacked_bytes=900_000,
)
SOFTWARE = Software(
    tasks=(Task.IMAGE_CLASSIFICATION,),
    packages={"torch": "2.14.1", "transformers": "5.23.0", "peft": "0.21.2"},
    torch_cuda="13.0",
)


def training_spec(**fields: Any) -> TrainingSpec:
    """Return a small image classification."""
    return TrainingSpec(
        **{
            "task": Task.IMAGE_CLASSIFICATION,
            "model": ModelSource(config={"model_type": "vit"}),
            "dataset": DATASET.name,
            **fields,
        }
    )


def resolved_spec(model_type: str = "vit", parameter_count: int = 1_000_000, **fields: Any) -> ResolvedSpec:
    """Return a resolved spec of that architecture."""
    model = ResolvedModel(config_json="{}", model_type=model_type, parameter_count=parameter_count)
    return ResolvedSpec(spec=training_spec(**fields), model=model, dataset=DATASET, resolver_version="test")


def resolved_bytes(**fields: Any) -> bytes:
    """Return the bytes that an approval signs."""
    return serialize_resolved(resolved_spec(**fields))


def memory(needed_bytes: int) -> MemoryEstimate:
    """Return an estimate that needs so much in all."""
    return MemoryEstimate(
        peak_allocated_bytes=0, peak_reserved_bytes=needed_bytes, context_bytes=0, margin_bytes=0
    )


def estimate(host_bytes: int = GIB, gpu_bytes: int = 0, disk_bytes: int = 0, gpus: int = 1) -> Estimate:
    """Return an estimate for a CPU and, where `gpu_bytes` is given, for a GPU."""
    placements = [PlacementEstimate(device=DeviceKind.CPU, device_count=1, gpu=None, host=memory(host_bytes))]
    if gpu_bytes:
        gpu = memory(gpu_bytes)
        placements.append(
            PlacementEstimate(device=DeviceKind.CUDA, device_count=gpus, gpu=gpu, host=memory(host_bytes))
        )
    return Estimate(method=EstimateMethod.ANALYTIC, placements=tuple(placements), disk_bytes=disk_bytes)


def gpu(index: int = 0, total: int = 80 * GIB, free: int | None = None, **fields: Any) -> Gpu:
    """Return a GPU of the Hopper generation."""
    return Gpu(
        **{
            "uuid": f"GPU-{index}",
            "index": index,
            "product": "NVIDIA H100",
            "total_bytes": total,
            "free_bytes": total if free is None else free,
            "compute_capability": "9.0",
            **fields,
        }
    )


def inventory(
    total: int = 16 * GIB, free: int | None = None, gpus: tuple[Gpu, ...] = (), disk: int = 100 * GIB
) -> Inventory:
    """Return what a node has; nothing is used unless said."""
    return Inventory(
        system=SystemInfo(hostname="lab"),
        boot_id="boot",
        cpu=Cpu(usable_cores=4, instruction_sets=("avx2",)),
        host=Space(total, total if free is None else free),
        disk=Space(disk, disk),
        gpus=gpus,
    )


def node(
    seen: Inventory | None = None,
    reservations: tuple[Reservation, ...] = (),
    capacity: dict[str, int] | None = None,
    **fields: Any,
) -> Node:
    """Return a ready node with its devices accounted for."""
    seen = seen or inventory()
    return Node(
        **{
            "name": "nodes/lab-1",
            "state": NodeState.READY,
            "cpu": seen.cpu,
            "gpus": seen.gpus,
            "software": SOFTWARE,
            "devices": account(seen, reservations, capacity or {}),
            "reservations": reservations,
            **fields,
        }
    )


def reservation(run: str, shared: bool = False, used: int = 0, **amounts: int) -> Reservation:
    """Return an active reservation; `host=…`, or a GPU as `gpu_0=…`; `used` of each."""
    named = {name.replace("gpu_", "GPU-"): size for name, size in amounts.items()}
    return Reservation(
        run=run,
        state=ReservationState.ACTIVE,
        amounts=tuple(
            DeviceAmount(device=name, reserved_bytes=size, used_bytes=used) for name, size in named.items()
        ),
        spec_sha256=SHA,
        shared=shared,
    )


def placed(device: DeviceKind, **fields: Any) -> PlacementOptions:
    """Return a placement on a kind of device."""
    return replace(PlacementOptions(device=device), **fields)
