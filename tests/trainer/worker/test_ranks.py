"""Runs that several processes train together, as they do on several GPUs; here, on the CPU of one machine.

The estimate refuses such runs on a CPU, which has one memory for all: these are laid before the worker.
"""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.specs import (
    EvaluationOptions,
    IntervalStrategy,
    LoraOptions,
    PlacementOptions,
    PreferenceOptions,
    QuantizationMethod,
    QuantizationOptions,
    ResolvedSpec,
    ShardingStrategy,
    Task,
    TextOptions,
    TrainingSpec,
)
from services.trainer.recipes.fields import need
from services.trainer.runs.directory import RunDirectory
from tests.trainer.specs import LORA, SPEC, TRAINING, resolved
from tests.trainer.text_specs import TINY, lora_for
from tests.trainer.worker.rundirs import LABELS, events, outcome, png, write_run, write_zip
from tests.trainer.worker.text.rows import (
    LEARNING,
    LENGTH,
    LLAMA,
    resolved_text,
    rows_of,
    spec_of,
    write_rows,
)
from tests.trainer.worker.warm import Warm, WarmWorker

TWO = PlacementOptions(device_count=2, sharding=ShardingStrategy.DDP)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MANY_EPOCHS = 400.0


PACKED = TextOptions(max_length=LENGTH, packing=True)
SECOND_MODEL = PreferenceOptions(
    beta=0.1, loss_type=("sigmoid",), label_smoothing=0.0, precompute_ref_log_probs=False
)
NF4 = QuantizationOptions(method=QuantizationMethod.NF4)
SWITCH = {"model_type": "switch_transformers", **TINY["switch_transformers"], "is_encoder_decoder": True}
MIXTURE = {"model_type": "mixtral", **TINY["mixtral"]}
# 18 rows are trained on: whole steps of 6, or several ranks would fill up the last one.
THREE = replace(LEARNING, per_device_train_batch_size=3)
ACCUMULATED = replace(
    LEARNING, per_device_train_batch_size=1, gradient_accumulation_steps=3, gradient_checkpointing=True
)
CHECKPOINTED = replace(THREE, gradient_checkpointing=True)

JOBS: dict[str, tuple[str, TrainingSpec, dict[str, Any]]] = {
    "sft_lora": ("messages", spec_of(lora=lora_for("llama"), training=THREE), LLAMA),
    "sft_full_accumulated": ("messages", spec_of(training=ACCUMULATED), LLAMA),
    "dpo_lora": ("preference", spec_of(Task.DPO, lora=lora_for("llama"), training=THREE), LLAMA),
    "dpo_computed_before": ("preference", spec_of(Task.DPO, training=THREE), LLAMA),
    "dpo_second_model": ("preference", spec_of(Task.DPO, training=THREE, preference=SECOND_MODEL), LLAMA),
    "encoder": ("prompt_completion", spec_of(training=THREE), {**SWITCH, "dropout_rate": 0.0}),
    "mixture_nf4": (
        "messages",
        spec_of(lora=lora_for("mixtral"), quantization=NF4, training=CHECKPOINTED),
        MIXTURE,
    ),
}
"""Jobs without dropout, which several ranks draw otherwise than one."""


def losses(directory: RunDirectory) -> list[float]:
    assert outcome(directory)["state"] == "succeeded", directory.log_file.read_text()
    return [event["loss"] for event in events(directory, "progress")]


def weights(directory: RunDirectory) -> bytes:
    assert outcome(directory)["state"] == "succeeded", directory.log_file.read_text()
    return (directory.artifact / "model.safetensors").read_bytes()


def told(directory: RunDirectory) -> str:
    return "\n".join(event["message"] for event in events(directory, "notice"))


def other_rank(worker: WarmWorker) -> psutil.Process:
    # Its loaders are forked after it.
    return min(psutil.Process(worker.pid).children(), key=lambda child: child.pid)


def classifier(shapes: Path, lora: LoraOptions | None = None, epochs: float = 6.0) -> ResolvedSpec:
    """A classifier that two ranks train with dropout, augmentations and loaders."""
    training = replace(TRAINING, num_train_epochs=epochs, dataloader_num_workers=1)
    return resolved(replace(SPEC, lora=lora, training=training, placement=TWO), shapes, LABELS)


@pytest.fixture(scope="module")
def uninterrupted(workers: Warm, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return workers.run(write_run(tmp_path_factory.mktemp("ranks") / "run", classifier(shapes), shapes))


def test_two_ranks_classify_as_one_with_twice_the_batch(workers: Warm, shapes: Path, tmp_path: Path) -> None:
    # 27 images are trained on: the three steps are before the last one of the epoch, which is filled up.
    training = replace(TRAINING, num_train_epochs=None, max_steps=3)
    spec = replace(SPEC, training=training, placement=TWO)
    together = workers.run(write_run(tmp_path / "two", resolved(spec, shapes, LABELS, **NO_DROPOUT), shapes))
    whole = replace(spec, training=replace(training, per_device_train_batch_size=8), placement=None)
    alone = workers.run(write_run(tmp_path / "one", resolved(whole, shapes, LABELS, **NO_DROPOUT), shapes))

    # Not to the last bit: sums are rounded in another order.
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.parametrize("name", JOBS)
def test_two_ranks_learn_text_as_one_with_twice_the_batch(workers: Warm, tmp_path: Path, name: str) -> None:
    shape, spec, config = JOBS[name]
    data = write_rows(tmp_path / "rows.jsonl", rows_of(shape))
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "batch")
    twice = replace(spec, training=replace(training, per_device_train_batch_size=2 * batch))
    divided = replace(spec, placement=TWO)
    together = workers.run(write_run(tmp_path / "two", resolved_text(divided, data, config), data))
    alone = workers.run(write_run(tmp_path / "one", resolved_text(twice, data, config), data))

    # The first steps: what is rounded in another order grows from step to step. A model with an encoder takes
    # the mean over its own tokens, of which each device has its own number.
    near = 2e-2 if name == "encoder" else 2e-3
    assert losses(together)[:4] == pytest.approx(losses(alone)[:4], rel=near)
    assert len(losses(together)) == len(losses(alone))
    evaluated = [events(run, "evaluation")[0]["metrics"] for run in (together, alone)]
    assert evaluated[0]["loss"] == pytest.approx(evaluated[1]["loss"], rel=2e-2)
    assert {path.name for path in together.artifact.iterdir()} == {
        path.name for path in alone.artifact.iterdir()
    }


@pytest.mark.parametrize("name", ["packed", "mixture"])
def test_two_ranks_train_what_depends_on_how_rows_are_grouped(
    workers: Warm, tmp_path: Path, name: str
) -> None:
    text = PACKED if name == "packed" else TextOptions(max_length=LENGTH)
    spec = spec_of(text=text, training=replace(THREE, num_train_epochs=8.0), placement=TWO)
    data = write_rows(tmp_path / "rows.jsonl", rows_of("text"))
    config = MIXTURE if name == "mixture" else LLAMA
    directory = workers.run(write_run(tmp_path / "run", resolved_text(spec, data, config), data))
    assert losses(directory)[-1] < 0.8 * losses(directory)[0]


def test_run_of_two_ranks_leaves_what_a_run_leaves_once(uninterrupted: RunDirectory) -> None:
    steps = [event["step"] for event in events(uninterrupted, "progress")]
    assert steps == list(range(1, steps[-1] + 1))
    assert [event["type"] for event in events(uninterrupted)].count("started") == 1
    for path in uninterrupted.local_checkpoints().values():
        names = {file.name for file in path.iterdir()}
        assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "model.safetensors"} <= names
    assert {"config.json", "model.safetensors", "metrics.json", "README.md"} <= {
        path.name for path in uninterrupted.artifact.iterdir()
    }
    metrics = json.loads((uninterrupted.artifact / "metrics.json").read_text())
    assert sum(map(sum, metrics["confusion_matrix"]["counts"])) == 9
    # torch remarks, where nothing of a model is unused, that it need not have looked.
    warned = [line for line in uninterrupted.log_file.read_text().splitlines() if "Warning" in line]
    assert all("find_unused_parameters" in line for line in warned)


def test_size_of_a_step_over_all_devices_is_told(uninterrupted: RunDirectory) -> None:
    assert "4 examples x 2 devices x 1 accumulated = 8" in told(uninterrupted)


@pytest.mark.parametrize("victim", ["first", "other"])
def test_run_killed_at_any_rank_goes_on_to_the_weights_of_one_never_stopped(
    workers: Warm, shapes: Path, tmp_path: Path, uninterrupted: RunDirectory, victim: str
) -> None:
    killed = write_run(tmp_path / "killed", classifier(shapes), shapes)
    with workers.start(killed) as worker:
        worker.wait_until(lambda: any(event["step"] >= 6 for event in events(killed, "checkpoint")))
        other = other_rank(worker)
        if victim == "first":
            worker.send(signal.SIGKILL)
        else:
            other.kill()
        worker.wait()
        # No rank outlives the run and goes on using memory.
        worker_gone(other)
    start = list(killed.local_checkpoints().values())[-1]
    resumed = workers.run(write_run(tmp_path / "resumed", classifier(shapes), shapes, start_from=start))
    assert weights(resumed) == weights(uninterrupted)


def test_rank_that_is_killed_ends_the_run_with_its_number_and_how_it_ended(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    directory = write_run(tmp_path / "run", classifier(shapes, LORA, MANY_EPOCHS), shapes)
    with workers.start(directory) as worker:
        worker.wait_until(lambda: len(events(directory, "progress")) >= 3)
        other_rank(worker).kill()
        worker.wait()
    found = outcome(directory)["failure"]
    assert found["reason"] == "WORKER_LOST"
    assert found["metadata"] == {"run": "runs/test-1"}
    assert "rank 1 of the 2 of runs/test-1" in found["message"]
    assert "killed (signal 9)" in found["message"]


def test_stop_ends_all_ranks_after_the_same_step(
    workers: Warm, shapes: Path, tmp_path: Path, uninterrupted: RunDirectory
) -> None:
    stopped = write_run(tmp_path / "stopped", classifier(shapes), shapes)
    with workers.start(stopped) as worker:
        worker.wait_until(lambda: len(events(stopped, "progress")) >= 5)
        other = other_rank(worker)
        # Whoever ends the machine asks everybody; the service asks the first.
        other.send_signal(signal.SIGTERM)
        worker.send(signal.SIGTERM)
        worker.wait()
        worker_gone(other)
    assert outcome(stopped)["state"] == "cancelled"
    last = events(stopped, "checkpoint")[-1]
    assert last["step"] == events(stopped, "progress")[-1]["step"]
    resumed = workers.run(
        write_run(
            tmp_path / "resumed", classifier(shapes), shapes, start_from=stopped.path / str(last["path"])
        )
    )
    assert weights(resumed) == weights(uninterrupted)


def test_adapter_and_its_tokens_go_on_bit_for_bit(workers: Warm, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows_of("messages"))
    training = replace(LEARNING, num_train_epochs=6.0, per_device_train_batch_size=2)
    spec = spec_of(lora=lora_for("llama", lora_dropout=0.1), training=training, placement=TWO)
    job = resolved_text(spec, data)
    whole = workers.run(write_run(tmp_path / "whole", job, data))
    killed = write_run(tmp_path / "killed", job, data)
    with workers.start(killed) as worker:
        worker.wait_until(lambda: any(event["step"] >= 6 for event in events(killed, "checkpoint")))
        worker.send(signal.SIGKILL)
        worker.wait()
    start = list(killed.local_checkpoints().values())[-1]
    resumed = workers.run(write_run(tmp_path / "resumed", job, data, start_from=start))
    assert weights(resumed) == weights(whole)


def test_checkpoint_that_lacks_a_ranks_random_numbers_is_refused(
    workers: Warm, shapes: Path, tmp_path: Path, uninterrupted: RunDirectory
) -> None:
    start = tmp_path / "checkpoint"
    shutil.copytree(uninterrupted.local_checkpoints()[4], start)
    (start / "rng_state_1.pth").unlink()
    found = failure(workers.run(write_run(tmp_path / "run", classifier(shapes), shapes, start_from=start)))
    assert found["reason"] == "BAD_CHECKPOINT"
    assert "rng_state_1.pth" in found["message"]


def test_image_that_only_one_rank_meets_is_named(workers: Warm, tmp_path: Path) -> None:
    data = write_zip(tmp_path / "data.zip", bar__broken=png("bar", 1)[:-40])
    directory = workers.run(write_run(tmp_path / "run", classifier(data), data))
    found = failure(directory)
    assert found["reason"] == "BAD_DATA"
    assert found["metadata"]["item"] == "bar/broken"


def test_memory_of_all_ranks_together_is_held_to_the_reservation(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    directory = write_run(tmp_path / "run", classifier(shapes), shapes, reserved_bytes=64 << 20)
    found = failure(workers.run(directory))
    assert found["reason"] == "MEMORY_OVERRUN"
    assert found["metadata"]["device"] == "host"


def test_best_weights_are_the_same_whichever_rank_evaluated(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    spec = replace(
        SPEC,
        placement=TWO,
        evaluation=EvaluationOptions(
            validation_split=0.25,
            eval_strategy=IntervalStrategy.EPOCH,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
        ),
        # Learns fast, then a learning rate that it cannot bear: the best evaluation is not the last.
        training=replace(TRAINING, num_train_epochs=12.0, learning_rate=0.03, warmup_steps=40.0),
    )
    directory = workers.run(write_run(tmp_path / "run", resolved(spec, shapes, LABELS), shapes))
    evaluated = {event["step"]: event["metrics"]["loss"] for event in events(directory, "evaluation")}
    metrics = json.loads((directory.artifact / "metrics.json").read_text())
    assert metrics["kept_step"] == min(evaluated, key=lambda step: evaluated[step])
    assert metrics["loss"] == pytest.approx(evaluated[metrics["kept_step"]], rel=1e-5)


FETCH = """
import sys, time
from pathlib import Path
from services.trainer.work.crew import fork_ranks
found, folder = fork_ranks(3), Path(sys.argv[1])
ranks = found.ranks
ranks.join(folder, on_gpu=False)
with ranks.first_alone(True):
    if ranks.is_first:
        time.sleep(0.5)
        (folder / "fetched").touch()
    assert (folder / "fetched").exists()
assert ranks.agree(ranks.number == 2)
assert not ranks.agree(False)
(folder / f"done-{ranks.number}").touch()
ranks.part()
"""


def test_what_the_first_rank_fetches_is_there_for_the_others(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FETCH, str(tmp_path)], check=True, start_new_session=True)
    assert {"done-0", "done-1", "done-2"} <= {path.name for path in tmp_path.iterdir()}


def failure(directory: RunDirectory) -> dict[str, Any]:
    ended = outcome(directory)
    assert ended["state"] == "failed", ended
    found: dict[str, Any] = ended["failure"]
    return found


def worker_gone(process: psutil.Process) -> None:
    """Wait until a rank is gone, or nothing of it but its entry."""
    try:
        process.wait(timeout=60)
    except psutil.NoSuchProcess:
        return
