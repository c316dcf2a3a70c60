"""A worker as the service starts it, from its locks to an artifact that loads without it."""

import fcntl
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.common.specs import Reporter
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.locks import claimed_by
from services.trainer.runs.workerevents import read_worker_events
from tests.trainer.specs import SPEC, TRAINING, resolved
from tests.trainer.worker.rundirs import LABELS, events, outcome, png, worker, write_run

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that two workers were started on."""
    training = replace(TRAINING, num_train_epochs=30.0, learning_rate=3e-3, dataloader_num_workers=1)
    spec = resolved(replace(SPEC, training=training), shapes, LABELS)
    directory = write_run(tmp_path_factory.mktemp("runs") / "run", spec, shapes)
    with worker(directory) as first, worker(directory) as second:
        statuses = {process.pid: process.wait() for process in (first, second)}
        pid = claimed_by(directory.claim)
    assert statuses == {first.pid: 0, second.pid: 0}
    assert pid in statuses
    return directory


def test_the_second_worker_of_a_run_ends_without_a_trace(finished: RunDirectory) -> None:
    assert [event["type"] for event in events(finished)].count("started") == 1


def test_no_worker_takes_a_run_that_had_one(finished: RunDirectory) -> None:
    before = finished.events_file.read_bytes(), finished.log_file.read_bytes()
    with worker(finished) as late:
        assert late.wait() == 0
    assert (finished.events_file.read_bytes(), finished.log_file.read_bytes()) == before


def test_locks_are_free_once_every_process_is_gone(finished: RunDirectory) -> None:
    for path in (finished.claim, finished.alive):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_events_tell_the_run_in_order_and_the_service_understands_each(finished: RunDirectory) -> None:
    kinds = [event["type"] for event in events(finished)]
    phases = [event["phase"] for event in events(finished, "phase")]
    assert phases == ["importing", "fetching_data", "building"]
    assert kinds.index("started") < kinds.index("progress") < kinds.index("evaluation")
    assert len(list(read_worker_events(finished.events_file, 0))) == len(kinds)
    last = events(finished, "progress")[-1]
    assert last["step"] == last["total_steps"] == 30 * 7
    assert last["examples_per_second"] > 0
    assert last["memory"][0]["device"] == "host"
    assert last["memory"][0]["peak_bytes"] > 100 << 20


def test_notices_say_which_attention_was_chosen_and_why(finished: RunDirectory) -> None:
    told = [event["message"] for event in events(finished, "notice")]
    assert any(
        "scaled_dot_product_attention, since FlashAttention-2 never runs on a CPU" in line for line in told
    )


def test_checkpoints_are_told_of_with_the_evaluation_of_their_step(finished: RunDirectory) -> None:
    evaluated = {event["step"]: event["metrics"] for event in events(finished, "evaluation")}
    for checkpoint in events(finished, "checkpoint"):
        assert (finished.path / checkpoint["path"] / "checkpoint.json").exists()
        assert checkpoint["metrics"] == evaluated.get(checkpoint["step"], {})


def test_outcome_has_held_out_figures_and_the_measured_peak(finished: RunDirectory) -> None:
    ended = outcome(finished)
    assert ended["state"] == "succeeded"
    assert ended["metrics"]["accuracy"] > 0.5
    assert ended["peaks"][0]["peak_bytes"] >= ended["peaks"][0]["used_bytes"] > 0


def test_log_holds_no_warnings_of_libraries(finished: RunDirectory) -> None:
    assert "Warning" not in finished.log_file.read_text()


def test_artifact_holds_all_that_belongs_to_it(finished: RunDirectory) -> None:
    names = {path.name for path in finished.artifact.iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "tensorboard"),
        *("metrics.json", "dataset.json", "environment.json", "resolved_spec.json"),
        *("training_curve.png", "confusion_matrix.png"),
    }
    metrics = json.loads((finished.artifact / "metrics.json").read_text())
    assert set(metrics["per_label"]) == set(LABELS)
    assert sum(map(sum, metrics["confusion_matrix"]["counts"])) == metrics["examples"]["held_out"] == 9
    dataset = json.loads((finished.artifact / "dataset.json").read_text())
    assert dataset["digest"].startswith("sha256:")
    assert len(dataset["held_out"]) == 9
    card = (finished.artifact / "README.md").read_text()
    assert "training_curve.png" in card
    assert f"{metrics['accuracy']:.1%} of 9 held-out images" in card
    for picture in ("training_curve.png", "confusion_matrix.png"):
        with Image.open(finished.artifact / picture) as image:
            assert min(image.size) > 300


def test_artifact_loads_in_plain_transformers_and_classifies(finished: RunDirectory, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(finished.artifact)
    processor = AutoImageProcessor.from_pretrained(finished.artifact)
    pictures = {label: png(label, 500) for label in LABELS}
    images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures.values()]
    probabilities = model(**processor(images, return_tensors="pt")).logits.softmax(-1)

    answer = classify(finished.artifact, write(tmp_path, pictures), top_k=2)

    assert [len(scores) for scores in answer] == [2, 2, 2]
    for scores, row in zip(answer, probabilities, strict=True):
        best = int(row.argmax())
        assert scores[0]["label"] == model.config.id2label[best]
        assert scores[0]["probability"] == pytest.approx(float(row[best].detach()), abs=1e-5)


def test_picture_that_is_none_is_named(finished: RunDirectory, tmp_path: Path) -> None:
    answer = classify(finished.artifact, write(tmp_path, {"good": png("bar", 1), "bad": b"text"}), top_k=1)
    assert answer["error"]["reason"] == "INVALID_DATASET"
    assert answer["error"]["metadata"]["item"] == "images[1]"
    assert "none of PNG" in answer["error"]["message"]


def test_spec_that_wants_no_reports_gets_no_tensorboard_files(
    workers: Any, shapes: Path, tmp_path: Path
) -> None:
    training = replace(TRAINING, num_train_epochs=None, max_steps=2)
    spec = replace(SPEC, training=training, report_to=(Reporter.NONE,))
    directory = workers.run(write_run(tmp_path / "run", resolved(spec, shapes, LABELS), shapes))
    assert outcome(directory)["state"] == "succeeded"
    assert not (directory.artifact / "tensorboard").exists()


def classify(artifact: Path, images: list[Path], top_k: int) -> Any:
    request = {"artifact_dir": str(artifact), "images": list(map(str, images)), "top_k": top_k}
    done = subprocess.run(
        [sys.executable, "-m", "services.trainer.classify"],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    return json.loads(done.stdout)


def write(folder: Path, pictures: dict[str, bytes]) -> list[Path]:
    paths = []
    for name, data in pictures.items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths
