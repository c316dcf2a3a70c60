"""The platform's main job, from a zip of labelled images to a prediction, over real sockets."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.data import SHAPES, shape_png, tiny_vit
from tests.e2e.platform import Platform
from weighbridge.gateway.v1.resources_pb2 import JobEvent, TrainingJob
from weighbridge.hardware.v1.resources_pb2 import Decision, LimitKind
from weighbridge.jobs import Job

LOAD_IT = """
import json, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
print(json.dumps([model.config.id2label, type(processor).__name__]))
"""
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.fixture(scope="module")
def events() -> list[JobEvent]:
    return []


@pytest.fixture(scope="module")
def job(platform: Platform, events: list[JobEvent]) -> Job:
    """Return the main job, once it succeeded; its events are in `events`."""
    return platform.client.train(tiny_vit()).wait(on_event=events.append)


@pytest.fixture(scope="module")
def artifact(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job.download(tmp_path_factory.mktemp("artifact") / "model")


def test_check_weighs_a_job_and_creates_nothing(platform: Platform) -> None:
    before = len(list(platform.client.jobs.list()))
    answer = platform.client.check(tiny_vit())
    assert answer.verdict.decision == Decision.DECISION_ADMIT, answer.verdict
    assert answer.resolved_spec.spec.training.per_device_train_batch_size == 8
    assert answer.resolved_spec.spec.seed == 42
    memory = [limit for limit in answer.verdict.nodes[0].limits if limit.subject == "host"]
    assert memory[0].needed_bytes <= memory[0].available_bytes <= memory[0].capacity_bytes
    assert len(list(platform.client.jobs.list())) == before


def test_the_job_is_weighed_queued_started_and_run(job: Job, events: list[JobEvent]) -> None:
    # A watch begins with the job as it is; then comes what happened, from the first event on.
    states = [event.job.state for event in events[1:] if event.HasField("job")]
    assert sorted(set(states)) == sorted(set(states), key=states.index), "no state comes before its time"
    assert states[-1] == TrainingJob.STATE_SUCCEEDED
    progress = [event.progress for event in events if event.HasField("progress")]
    assert progress[-1].loss < progress[0].loss
    assert progress[-1].memory[0].used_bytes > 0
    assert [event for event in events if event.HasField("checkpoint")]


def test_the_job_learned_its_shapes(job: Job) -> None:
    assert job.metrics["accuracy"] > 0.6, job.metrics


def test_predicted_and_measured_peak_stand_side_by_side(platform: Platform, job: Job) -> None:
    outcome = next(o for o in platform.client.outcomes() if o.run == f"runs/{job.id}-1")
    assert 0 < outcome.measured_bytes <= outcome.predicted_bytes


def test_the_artifact_tells_everything_about_itself(artifact: Path) -> None:
    names = {path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()}
    assert {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "metrics.json",
        "resolved_spec.json",
        "environment.json",
        "confusion_matrix.png",
        "training_curve.png",
        "README.md",
    } <= names
    assert "accuracy" in json.loads((artifact / "metrics.json").read_text())


def test_plain_transformers_loads_the_artifact(artifact: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", LOAD_IT, str(artifact)], capture_output=True, text=True, check=True
    ).stdout
    labels, processor = json.loads(printed.splitlines()[-1])
    assert list(labels.values()) == list(SHAPES)
    assert processor.startswith("ViTImageProcessor")


def test_a_finished_job_classifies_new_pictures(platform: Platform, job: Job, tmp_path: Path) -> None:
    pictures = []
    for shape in SHAPES:
        picture = tmp_path / f"{shape}.png"
        picture.write_bytes(shape_png(shape, random.Random(99)))
        pictures.append(picture)
    answers = platform.client.predict(job, pictures, top_k=3)
    assert len(answers) == 3
    for answer in answers:
        assert {score.label for score in answer.scores} == set(SHAPES)
        assert sum(score.probability for score in answer.scores) == pytest.approx(1, abs=1e-4)


def test_a_job_goes_on_from_another_jobs_artifact_with_a_new_head(platform: Platform, job: Job) -> None:
    spec = tiny_vit(model={"job": job.id}, image={"labels": ["circle", "square"]})
    tuned = platform.client.train(spec).wait()
    labels = json.loads(tuned.message.resolved_spec.model.config_json)["id2label"]
    assert list(labels.values()) == ["circle", "square"]


def test_an_adapter_is_trained_on_another_jobs_artifact(platform: Platform, job: Job, tmp_path: Path) -> None:
    spec = tiny_vit(model={"job": job.id}, lora={"r": 4}, training={"max_steps": 6, "logging_steps": 2})
    tuned = platform.client.train(spec).wait()
    estimate = tuned.message.estimate
    assert 0 < estimate.trainable_parameter_count < estimate.parameter_count
    picture = tmp_path / "circle.png"
    picture.write_bytes(shape_png("circle", random.Random(7)))
    assert tuned.predict([picture])[0].scores


def test_a_model_that_cannot_fit_is_rejected_with_its_numbers(platform: Platform) -> None:
    spec = {"task": "sft", "model": {"config": LLAMA_8B}, "dataset": "instructions"}
    verdict = platform.client.check(spec).verdict
    assert verdict.decision == Decision.DECISION_REJECT
    memory = next(
        limit for limit in verdict.nodes[0].limits if limit.kind == LimitKind.LIMIT_KIND_HOST_MEMORY
    )
    assert not memory.within_capacity
    assert memory.needed_bytes > 100 << 30
    assert "GiB" in verdict.summary


def test_flash_attention_on_a_cpu_is_rejected_with_the_reason(platform: Platform) -> None:
    job = platform.client.train(
        tiny_vit(attn_implementation="flash_attention_2", placement={"device": "cpu"})
    )
    with pytest.raises(Exception, match=r"(?i)flash.?attention"):
        job.wait()
    assert job.state == "REJECTED"
    assert job.message.failure.reason == "DOES_NOT_FIT"


def test_the_audit_trail_says_what_was_decided_and_why(platform: Platform, job: Job) -> None:
    trail = list(platform.client.admissions(job=job.id))
    assert any(entry.decision == Decision.DECISION_ADMIT and entry.attempt == 1 for entry in trail)
    assert all(entry.summary and entry.caller for entry in trail)
