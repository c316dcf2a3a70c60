"""A world that looks like a busy day: what the command line prints is looked at with it."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.client.fake_gateway import JOB, State, World
from weighbridge import spec_file
from weighbridge.common.v1 import artifacts_pb2, resolved_spec_pb2
from weighbridge.common.v1 import training_spec_pb2 as spec_pb
from weighbridge.gateway.v1 import resources_pb2 as gateway
from weighbridge.hardware.v1 import resources_pb2 as hw
from weighbridge.trainer.v1 import resources_pb2 as trainer

GIB = 1 << 30
MIB = 1 << 20
SPEC = spec_file.parse(
    {
        "task": "image_classification",
        "model": {"config": {"model_type": "vit", "hidden_size": 192}},
        "dataset": "digits",
        "training": {"learning_rate": 1e-3, "num_train_epochs": 5},
    }
)


def at(second: int) -> Timestamp:
    return Timestamp(seconds=1_767_225_600 + second)


def node() -> gateway.FleetNode:
    snapshot = hw.Node(
        name="nodes/local",
        cpu=hw.Cpu(model="AMD EPYC 7763", usable_cores=2),
        gpus=[hw.Gpu(uuid="GPU-1", product="NVIDIA H100", compute_capability="9.0", driver_version="570.1")],
        software=hw.Software(packages={"torch": "2.14.1"}, tasks=[spec_pb.TASK_IMAGE_CLASSIFICATION]),
        devices=[
            device("GPU-1", hw.MEMORY_KIND_GPU, 80, 12, 1),
            device("host", hw.MEMORY_KIND_HOST, 24, 3, 4),
            device("disk", hw.MEMORY_KIND_DISK, 500, 0, 120),
        ],
    )
    return gateway.FleetNode(
        name="nodes/local", state=gateway.FLEET_NODE_STATE_READY, snapshot=snapshot, runs=["runs/t0-1"]
    )


def device(name: str, kind: hw.MemoryKind.ValueType, capacity: int, held: int, outside: int) -> hw.Device:
    return hw.Device(
        id=name,
        kind=kind,
        total_bytes=capacity * GIB,
        capacity_bytes=capacity * GIB,
        held_bytes=held * GIB,
        outside_bytes=outside * GIB,
        available_bytes=(capacity - held - outside) * GIB,
    )


def estimate() -> hw.Estimate:
    parts = {
        hw.MEMORY_PART_KIND_WEIGHTS: 340,
        hw.MEMORY_PART_KIND_GRADIENTS: 340,
        hw.MEMORY_PART_KIND_OPTIMIZER: 680,
        hw.MEMORY_PART_KIND_ACTIVATIONS: 512,
    }
    host = hw.MemoryEstimate(
        peak_reserved_bytes=1872 * MIB,
        context_bytes=900 * MIB,
        margin_bytes=400 * MIB,
        parts=[hw.MemoryPart(kind=kind, size_bytes=size * MIB) for kind, size in parts.items()],
    )
    return hw.Estimate(
        placements=[hw.PlacementEstimate(device=spec_pb.DEVICE_KIND_CPU, host=host)],
        parameter_count=85_800_000,
        trainable_parameter_count=85_800_000,
    )


def verdict(decision: hw.Decision.ValueType) -> gateway.JobVerdict:
    fits, capable = decision == hw.DECISION_ADMIT, decision != hw.DECISION_REJECT
    memory = hw.LimitCheck(
        kind=hw.LIMIT_KIND_HOST_MEMORY,
        subject="host",
        satisfied=fits,
        within_capacity=capable,
        needed_bytes=19 * GIB if not fits else 3 * GIB,
        available_bytes=17 * GIB,
        capacity_bytes=24 * GIB,
        holders=[
            hw.Holder(holder="runs/t0-1", reserved_bytes=3 * GIB),
            hw.Holder(holder="outside", used_bytes=4 * GIB),
        ],
        message="" if fits else "19.0 GiB of host memory are needed, 17.0 GiB are available: wait for t0-1",
    )
    flash = hw.LimitCheck(
        kind=hw.LIMIT_KIND_CAPABILITY,
        subject="flash_attention_2",
        message="FlashAttention-2 needs a CUDA GPU of compute capability 8.0 to 9.x: use `sdpa`",
    )
    disk = hw.LimitCheck(
        kind=hw.LIMIT_KIND_DISK,
        subject="disk",
        satisfied=True,
        within_capacity=True,
        needed_bytes=2 * GIB,
        available_bytes=380 * GIB,
        capacity_bytes=500 * GIB,
    )
    plan = hw.Plan(
        changes=[
            hw.PlanChange(
                field="training.gradient_checkpointing",
                to="true",
                cost="a third more time",
                **{"from": "false"},
            ),
            hw.PlanChange(field="lora", to="r=16", cost="adapters only"),
        ]
    )
    summary = {
        hw.DECISION_ADMIT: "node local has 17.0 GiB of host memory available, 3.0 GiB are needed",
        hw.DECISION_WAIT: "19.0 GiB of host memory are needed, 17.0 GiB are available: it waits for t0-1",
        hw.DECISION_REJECT: "FlashAttention-2 is asked for, and no node has a GPU that can run it",
    }
    on_node = hw.Verdict(
        node="nodes/local",
        decision=decision,
        device=spec_pb.DEVICE_KIND_CPU,
        limits=[*([] if capable else [flash]), memory, disk],
        warnings=["training on a CPU takes long"],
    )
    return gateway.JobVerdict(
        decision=decision,
        summary=summary[decision],
        nodes=[on_node],
        plans=[] if capable else [plan],
    )


def job(state: State.ValueType, **fields: object) -> gateway.TrainingJob:
    return gateway.TrainingJob(name=JOB, state=state, spec=SPEC, create_time=at(0), caller="user", **fields)  # type: ignore[arg-type]


def attempt(number: int, state: trainer.RunState.ValueType, **fields: object) -> gateway.Attempt:
    approval = hw.Approval(amounts=[hw.DeviceAmount(device="host", reserved_bytes=3 * GIB)])
    return gateway.Attempt(attempt=number, node="nodes/local", state=state, approval=approval, **fields)  # type: ignore[arg-type]


def life() -> list[gateway.JobEvent]:
    """Return the events of a job that waits, is lost once, and succeeds."""
    admitted = {"verdict": verdict(hw.DECISION_ADMIT), "estimate": estimate()}
    waiting = gateway.Condition(
        type=gateway.CONDITION_TYPE_WAITING,
        position=2,
        message="3.0 GiB are needed, 1.2 GiB are free",
    )
    lost = artifacts_pb2.Failure(reason="WORKER_LOST", message="the worker's process vanished")
    attempts = [
        attempt(1, trainer.RUN_STATE_LOST, failure=lost),
        attempt(2, trainer.RUN_STATE_SUCCEEDED),
    ]
    fetching = gateway.Condition(
        type=gateway.CONDITION_TYPE_FETCHING_DATA, done_bytes=3 * MIB, total_bytes=12 * MIB
    )
    artifact = artifacts_pb2.FileTree(
        size_bytes=345 * MIB, files=[artifacts_pb2.FileEntry(path="model.safetensors", size_bytes=345 * MIB)]
    )
    events = [
        gateway.JobEvent(job=job(State.STATE_PENDING)),
        gateway.JobEvent(job=job(State.STATE_WEIGHING)),
        gateway.JobEvent(job=job(State.STATE_QUEUED, conditions=[waiting], **admitted)),
        gateway.JobEvent(
            job=job(
                State.STATE_STARTING,
                attempts=attempts,
                conditions=[fetching],
                **admitted,
            )
        ),
        gateway.JobEvent(job=job(State.STATE_RUNNING, attempts=attempts, **admitted)),
        progress(10),
        gateway.JobEvent(checkpoint=artifacts_pb2.Checkpoint(step=10, size_bytes=345 * MIB)),
        gateway.JobEvent(job=job(State.STATE_QUEUED, attempts=attempts, **admitted)),
        gateway.JobEvent(
            job=job(
                State.STATE_RUNNING,
                attempts=attempts,
                warnings=["the data set has one label with two images only"],
                **admitted,
            )
        ),
        gateway.JobEvent(
            notice=trainer.Notice(
                level=trainer.NOTICE_LEVEL_INFO, message="attention: sdpa, since this is a CPU"
            )
        ),
        progress(20),
        gateway.JobEvent(
            evaluation=trainer.Evaluation(
                step=20, epoch=2, metrics={"accuracy": 0.91, "loss": 0.31, "f1": 0.9}
            )
        ),
        progress(40),
        gateway.JobEvent(
            job=job(
                State.STATE_SUCCEEDED,
                attempts=attempts,
                metrics={"accuracy": 0.93, "loss": 0.2},
                artifact=artifact,
                **admitted,
            )
        ),
    ]
    for number, event in enumerate(events, 1):
        event.cursor = str(number)
        event.time.CopyFrom(at(number))
        event.attempt = 0 if number < 4 else 1 if number < 9 else 2
    return events


def progress(step: int) -> gateway.JobEvent:
    return gateway.JobEvent(
        progress=trainer.Progress(
            step=step,
            total_steps=40,
            epoch=step / 10,
            loss=2.3 - step / 20,
            learning_rate=4.8e-5,
            examples_per_second=123.4,
            eta=Duration(seconds=(40 - step) * 2),
            memory=[trainer.DevicePeak(device="host", used_bytes=2 * GIB, peak_bytes=2 * GIB)],
        )
    )


def sample_world() -> World:
    world = World(nodes=[node()], events=life())
    world.job.CopyFrom(job(State.STATE_PENDING))
    summary = resolved_spec_pb2.DatasetSummary(
        format=resolved_spec_pb2.DATASET_FORMAT_IMAGE_FOLDER_ZIP,
        example_count=1797,
        size_bytes=900_000,
        labels=[resolved_spec_pb2.LabelCount(label=str(label), count=180) for label in range(10)],
    )
    name = "projects/default/datasets/digits"
    world.datasets[name] = gateway.Dataset(name=name, summary=summary, create_time=at(0))
    world.check.verdict.CopyFrom(verdict(hw.DECISION_ADMIT))
    world.check.estimate.CopyFrom(estimate())
    world.admissions = [
        gateway.Admission(
            name="admissions/1",
            time=at(2),
            job=JOB,
            attempt=1,
            caller="user",
            node="nodes/local",
            decision=hw.DECISION_ADMIT,
            summary="3.0 GiB of host memory are needed, 17.0 GiB are available",
            amounts=[hw.DeviceAmount(device="host", reserved_bytes=3 * GIB)],
        )
    ]
    world.outcomes = [
        hw.Outcome(
            run="runs/t1-1",
            node="nodes/local",
            model_type="vit",
            task=spec_pb.TASK_IMAGE_CLASSIFICATION,
            predicted_bytes=3 * GIB,
            measured_bytes=2 * GIB,
            product="host memory",
            end_time=at(90),
        )
    ]
    return world
