"""A run that goes on from a checkpoint ends with the weights of one that was never stopped, bit for bit."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.specs import LoraOptions, TrainingSpec
from services.trainer.runs.directory import RunDirectory
from tests.trainer.specs import LORA, SPEC, TRAINING, resolved
from tests.trainer.worker.rundirs import LABELS, events, outcome, write_run
from tests.trainer.worker.warm import Warm

# 7 steps an epoch and a checkpoint every 2: most of them stand in the middle of an epoch.
EPOCHS = 6


def spec(lora: LoraOptions | None, loaders: int = 0) -> TrainingSpec:
    training = replace(TRAINING, num_train_epochs=float(EPOCHS), dataloader_num_workers=loaders)
    return replace(SPEC, lora=lora, training=training)


@pytest.fixture(scope="module")
def uninterrupted(
    workers: Warm, shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunDirectory]:
    root = tmp_path_factory.mktemp("uninterrupted")
    return {
        name: workers.run(write_run(root / name, resolved(spec(lora), shapes, LABELS), shapes))
        for name, lora in (("full", None), ("lora", LORA))
    }


def weights(directory: RunDirectory) -> bytes:
    assert outcome(directory)["state"] == "succeeded", directory.log_file.read_text()
    return (directory.artifact / "model.safetensors").read_bytes()


def newest_checkpoint(directory: RunDirectory) -> Path:
    return list(directory.local_checkpoints().values())[-1]


@pytest.mark.parametrize("loaders", [0, 2])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    workers: Warm,
    shapes: Path,
    tmp_path: Path,
    uninterrupted: dict[str, RunDirectory],
    adapter: str,
    loaders: int,
) -> None:
    job = resolved(spec(LORA if adapter == "lora" else None, loaders), shapes, LABELS)
    killed = write_run(tmp_path / "killed", job, shapes)
    with workers.start(killed) as worker:
        worker.wait_until(lambda: any(event["step"] >= 10 for event in events(killed, "checkpoint")))
        worker.send(signal.SIGKILL)
        worker.wait()
    assert not killed.outcome_file.exists()

    start = newest_checkpoint(killed)
    resumed = workers.run(write_run(tmp_path / "resumed", job, shapes, start_from=start))

    assert weights(resumed) == weights(uninterrupted[adapter])
    assert events(resumed, "progress")[0]["step"] == int(start.name.removeprefix("step-")) + 1


def test_run_stopped_by_sigterm_leaves_a_checkpoint_to_go_on_from(
    workers: Warm, shapes: Path, tmp_path: Path, uninterrupted: dict[str, RunDirectory]
) -> None:
    job = resolved(spec(None), shapes, LABELS)
    stopped = write_run(tmp_path / "stopped", job, shapes)
    with workers.start(stopped) as worker:
        worker.wait_until(lambda: len(events(stopped, "progress")) >= 5)
        worker.send(signal.SIGTERM)
        worker.wait()

    assert outcome(stopped)["state"] == "cancelled"
    told = events(stopped, "checkpoint")[-1]
    assert told["step"] == events(stopped, "progress")[-1]["step"] < 7 * EPOCHS
    start = stopped.path / str(told["path"])
    assert start == newest_checkpoint(stopped)

    resumed = workers.run(write_run(tmp_path / "resumed", job, shapes, start_from=start))
    assert weights(resumed) == weights(uninterrupted["full"])
    # What was evaluated before and after the stop is what was evaluated without one.
    seen = {
        event["step"]: event["metrics"] for part in (stopped, resumed) for event in events(part, "evaluation")
    }
    assert seen == {event["step"]: event["metrics"] for event in events(uninterrupted["full"], "evaluation")}


def test_run_that_had_only_to_write_its_artifact_does_no_step_more(
    workers: Warm, shapes: Path, tmp_path: Path, uninterrupted: dict[str, RunDirectory]
) -> None:
    start = newest_checkpoint(uninterrupted["lora"])
    job = resolved(spec(LORA), shapes, LABELS)
    resumed = workers.run(write_run(tmp_path / "resumed", job, shapes, start_from=start))
    assert weights(resumed) == weights(uninterrupted["lora"])
    assert events(resumed, "progress") == []


@pytest.mark.parametrize("missing", ["optimizer.pt", "rng_state.pth", "model.safetensors"])
def test_checkpoint_that_lacks_a_file_is_refused(
    workers: Warm,
    shapes: Path,
    tmp_path: Path,
    uninterrupted: dict[str, RunDirectory],
    missing: str,
) -> None:
    whole = uninterrupted["full"].local_checkpoints()[4]
    start = tmp_path / "checkpoint"
    start.mkdir()
    for file in whole.iterdir():
        if file.name != missing:
            (start / file.name).write_bytes(file.read_bytes())

    resumed = workers.run(
        write_run(tmp_path / "resumed", resolved(spec(None), shapes, LABELS), shapes, start_from=start)
    )

    failure = outcome(resumed)["failure"]
    assert failure["reason"] == "BAD_CHECKPOINT"
    assert failure["metadata"]["step"] == "4"
    assert missing in failure["metadata"]["detail"]


def test_checkpoint_of_another_model_is_refused(
    workers: Warm, shapes: Path, tmp_path: Path, uninterrupted: dict[str, RunDirectory]
) -> None:
    start = uninterrupted["full"].local_checkpoints()[4]
    job = resolved(spec(None), shapes, LABELS, num_hidden_layers=3)
    resumed = workers.run(write_run(tmp_path / "resumed", job, shapes, start_from=start))
    assert outcome(resumed)["failure"]["reason"] == "BAD_CHECKPOINT"
    assert "vit.layers.2" in outcome(resumed)["failure"]["message"]
