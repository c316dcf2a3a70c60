"""How runs end that do not end well, and how those that stop before their last step."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.specs import (
    Attention,
    CheckpointOptions,
    EvaluationOptions,
    IntervalStrategy,
    TrainingSpec,
)
from services.trainer.runs.directory import RunDirectory
from tests.trainer.specs import LORA, SPEC, TRAINING, resolved
from tests.trainer.worker.rundirs import LABELS, events, outcome, png, write_run, write_zip
from tests.trainer.worker.warm import Warm


def failure(directory: RunDirectory) -> dict[str, Any]:
    ended = outcome(directory)
    assert ended["state"] == "failed", ended
    assert not directory.artifact.exists()
    found: dict[str, Any] = ended["failure"]
    return found


def test_run_cancelled_before_it_began_trains_nothing(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", resolved(SPEC, shapes, LABELS), shapes)
    directory.cancel_file.write_text("{}")
    workers.run(directory)
    assert outcome(directory)["state"] == "cancelled"
    assert events(directory) == []


def test_worker_on_a_closed_claim_does_nothing(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", resolved(SPEC, shapes, LABELS), shapes)
    directory.claim.write_text("0\n")
    with workers.start(directory) as worker:
        worker.wait()
    assert not directory.outcome_file.exists()
    assert events(directory) == []


def test_run_that_takes_more_than_it_reserved_is_ended_by_its_watch(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    reserved_bytes = 64 << 20
    directory = write_run(
        tmp_path / "run", resolved(SPEC, shapes, LABELS), shapes, reserved_bytes=reserved_bytes
    )
    found = failure(workers.run(directory))
    assert found["reason"] == "MEMORY_OVERRUN"
    assert found["metadata"]["device"] == "host"
    assert int(found["metadata"]["limit_bytes"]) == reserved_bytes
    assert int(found["metadata"]["predicted_bytes"]) == reserved_bytes // 2
    assert int(found["metadata"]["actual_bytes"]) > reserved_bytes


def test_allocation_past_the_reservation_fails_the_run_and_tells_what_it_needed(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    # A first layer of 8 GiB, which no page of is ever touched: only the limit on the process's data sees it.
    huge = resolved(SPEC, shapes, LABELS, hidden_size=32, intermediate_size=1 << 26, num_hidden_layers=1)
    directory = write_run(tmp_path / "run", huge, shapes, reserved_bytes=2 << 30)
    found = failure(workers.run(directory))
    assert found["reason"] == "MEMORY_OVERRUN"
    assert int(found["metadata"]["actual_bytes"]) > 8 << 30
    assert "2,048 MiB reserved" in found["message"]
    assert "1,024 MiB predicted" in found["message"]


@pytest.mark.parametrize("loaders", [0, 2])
def test_corrupt_image_among_good_ones_is_named(workers: Warm, tmp_path: Path, loaders: int) -> None:
    data = write_zip(tmp_path / "data.zip", bar__broken=png("bar", 1)[:-40])
    spec = replace(SPEC, training=replace(TRAINING, dataloader_num_workers=loaders))
    found = failure(workers.run(write_run(tmp_path / "run", resolved(spec, data, LABELS), data)))
    assert found["reason"] == "BAD_DATA"
    assert found["metadata"]["item"] == "bar/broken"
    assert "bar/broken" in found["message"]


def test_diverging_loss_ends_the_run_at_its_step(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, training=replace(TRAINING, learning_rate=1e30, logging_steps=1000))
    directory = workers.run(write_run(tmp_path / "run", resolved(spec, shapes, LABELS), shapes))
    found = failure(directory)
    assert found["reason"] == "DIVERGED"
    assert int(found["metadata"]["step"]) <= 3
    # What could not be gone on from is not written.
    assert events(directory, "checkpoint") == []


def test_attention_that_the_hardware_lacks_is_refused(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, attn_implementation=Attention.FLASH_ATTENTION_2)
    found = failure(workers.run(write_run(tmp_path / "run", resolved(spec, shapes, LABELS), shapes)))
    assert found["reason"] == "INVALID_SPEC"
    assert "never runs on a CPU" in found["message"]


def test_spec_other_than_the_approved_one_is_refused(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", resolved(SPEC, shapes, LABELS), shapes)
    directory.spec_file.write_bytes(directory.spec_file.read_bytes() + b"\n\x00")
    assert failure(workers.run(directory))["reason"] == "DIGEST_MISMATCH"


def spec_with(epochs: float, **evaluation: Any) -> TrainingSpec:
    options = EvaluationOptions(validation_split=0.25, eval_strategy=IntervalStrategy.EPOCH, **evaluation)
    return replace(SPEC, evaluation=options, training=replace(TRAINING, num_train_epochs=epochs))


def test_training_stops_when_evaluations_get_no_better(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    # Nothing gains that much, so the first evaluation stays the last good one.
    spec = replace(
        spec_with(50.0, early_stopping_patience=2, early_stopping_threshold=2.0),
        checkpointing=CheckpointOptions(save_strategy=IntervalStrategy.EPOCH),
    )
    directory = workers.run(write_run(tmp_path / "run", resolved(spec, shapes, LABELS), shapes))
    assert outcome(directory)["state"] == "succeeded"
    assert len(events(directory, "evaluation")) == 3
    # Its last checkpoint stands after the last evaluation: whoever goes on from it has had enough too.
    start = list(directory.local_checkpoints().values())[-1]
    resumed = workers.run(
        write_run(tmp_path / "resumed", resolved(spec, shapes, LABELS), shapes, start_from=start)
    )
    assert outcome(resumed)["metrics"] == outcome(directory)["metrics"]
    assert events(resumed, "progress") == []


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_best_weights_are_kept_across_attempts(
    workers: Warm, shapes: Path, tmp_path: Path, adapter: str
) -> None:
    lora = LORA if adapter == "lora" else None
    # Learns fast, then a learning rate that it cannot bear: the best evaluation is not the last.
    spec = replace(
        spec_with(12.0, load_best_model_at_end=True, metric_for_best_model="loss"),
        lora=lora,
        checkpointing=CheckpointOptions(save_strategy=IntervalStrategy.EPOCH),
        training=replace(TRAINING, num_train_epochs=12.0, learning_rate=0.03, warmup_steps=80.0),
    )
    job = resolved(spec, shapes, LABELS)
    whole = workers.run(write_run(tmp_path / "whole", job, shapes))
    evaluated = {event["step"]: event["metrics"]["loss"] for event in events(whole, "evaluation")}
    best_step = min(evaluated, key=lambda step: evaluated[step])
    assert best_step < max(evaluated)

    killed = write_run(tmp_path / "killed", job, shapes)
    with workers.start(killed) as worker:
        worker.wait_until(lambda: any(event["step"] > best_step for event in events(killed, "checkpoint")))
        worker.send(signal.SIGKILL)
        worker.wait()
    start = list(killed.local_checkpoints().values())[-1]
    resumed = workers.run(write_run(tmp_path / "resumed", job, shapes, start_from=start))

    for directory in (whole, resumed):
        metrics = json.loads((directory.artifact / "metrics.json").read_text())
        assert metrics["kept_step"] == metrics["best"]["step"] == best_step
        assert metrics["loss"] == pytest.approx(evaluated[best_step], rel=1e-5)
    kept = [(directory.artifact / "model.safetensors").read_bytes() for directory in (whole, resumed)]
    assert kept[0] == kept[1]
