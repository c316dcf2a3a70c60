"""A killed run of a language model ends, once it has gone on, with the weights of one never stopped."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.specs import PreferenceOptions, Task, TextOptions, TrainingSpec
from services.trainer.runs.directory import RunDirectory
from tests.trainer.text_specs import TINY, lora_for
from tests.trainer.worker.rundirs import events, outcome, write_run
from tests.trainer.worker.text.rows import (
    LEARNING,
    LENGTH,
    LLAMA,
    resolved_text,
    rows_of,
    spec_of,
    write_rows,
)
from tests.trainer.worker.warm import Warm

# Dropout, loaders and a batch that does not divide the rows: whatever could be out of step.
TRAINING = replace(LEARNING, num_train_epochs=6.0, per_device_train_batch_size=5, dataloader_num_workers=1)
LORA = lora_for("llama", lora_dropout=0.1)
PACKED = TextOptions(max_length=LENGTH, packing=True, neftune_noise_alpha=5.0)
SECOND_MODEL = PreferenceOptions(
    beta=0.1, loss_type=("sigmoid",), label_smoothing=0.0, precompute_ref_log_probs=False
)

MIXTURE = {"model_type": "mixtral", **TINY["mixtral"]}
SWITCH = {"model_type": "switch_transformers", **TINY["switch_transformers"], "is_encoder_decoder": True}

JOBS: dict[str, tuple[str, TrainingSpec, dict[str, Any]]] = {
    "packed": (
        "text",
        spec_of(text=PACKED, training=replace(TRAINING, per_device_train_batch_size=2)),
        LLAMA,
    ),
    "messages_lora": ("messages", spec_of(lora=LORA, training=TRAINING), LLAMA),
    "dpo_computed_before": ("preference", spec_of(Task.DPO, training=TRAINING), LLAMA),
    "dpo_second_model": ("preference", spec_of(Task.DPO, training=TRAINING, preference=SECOND_MODEL), LLAMA),
    "dpo_lora": ("preference", spec_of(Task.DPO, lora=LORA, training=TRAINING), LLAMA),
    "mixture": ("messages", spec_of(training=TRAINING), MIXTURE),
    "encoder": ("prompt_completion", spec_of(training=TRAINING), SWITCH),
}


@pytest.mark.parametrize("name", JOBS)
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    workers: Warm, tmp_path: Path, name: str
) -> None:
    shape, spec, config = JOBS[name]
    data = write_rows(tmp_path / "rows.jsonl", rows_of(shape))
    job = resolved_text(spec, data, config)
    whole = workers.run(write_run(tmp_path / "whole", job, data))
    killed = write_run(tmp_path / "killed", job, data)
    with workers.start(killed) as worker:
        worker.wait_until(lambda: any(event["step"] >= 6 for event in events(killed, "checkpoint")))
        worker.send(signal.SIGKILL)
        worker.wait()
    assert not killed.outcome_file.exists()

    start = list(killed.local_checkpoints().values())[-1]
    resumed = workers.run(write_run(tmp_path / "resumed", job, data, start_from=start))

    assert weights(resumed) == weights(whole)
    after = {event["step"]: event["loss"] for event in events(resumed, "progress")}
    expected = {event["step"]: event["loss"] for event in events(whole, "progress")}
    assert min(after) == int(start.name.removeprefix("step-")) + 1
    assert after == {step: expected[step] for step in after}


def weights(run: RunDirectory) -> bytes:
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    return (run.artifact / "model.safetensors").read_bytes()
