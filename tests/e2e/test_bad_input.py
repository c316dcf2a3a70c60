"""What is wrong is refused with its name and the limit, before anything is stored or started."""

import threading
import zipfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform
from weighbridge import Client, exceptions
from weighbridge.common.v1.training_spec_pb2 import ModelSource, Task, TrainingSpec
from weighbridge.gateway.v1.service_pb2 import GetTrainingJobRequest
from weighbridge.gateway.v1.service_pb2_grpc import TrainingServiceStub
from weighbridge.jobs import Job

TRUNCATED_PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def upload(platform: Platform, path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    platform.client.datasets.upload(path, "bad")


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"../../evil/a.png": b"x"}, "evil"),
        ({"/etc/a.png": b"x"}, "etc"),
        ({"cat/a.png": b"no image", "dog/b.png": b"no image"}, "a.png"),
        ({"cat/a.png": TRUNCATED_PNG, "dog/b.png": TRUNCATED_PNG}, "a.png"),
        ({"readme.txt": b"hello"}, "readme.txt"),
    ],
)
def test_a_bad_archive_is_refused_by_name_and_nothing_is_kept(
    platform: Platform, tmp_path: Path, entries: dict[str, bytes], named: str
) -> None:
    with pytest.raises(exceptions.InvalidDataset) as caught:
        upload(platform, tmp_path / "bad.zip", entries)
    assert named in str(caught.value)
    with pytest.raises(exceptions.NotFound):
        platform.client.datasets.get("bad")


def test_a_data_set_of_one_class_is_refused(platform: Platform, shapes: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shapes) as archive:
        circles = {name: archive.read(name) for name in archive.namelist() if name.startswith("circle/")}
    with pytest.raises(exceptions.InvalidDataset, match=r"(?i)label|class"):
        upload(platform, tmp_path / "one.zip", circles)


def outcome_of(platform: Platform, spec: dict[str, Any]) -> str:
    """Return why a spec is refused, whether at once or by the weighing."""
    try:
        job = platform.client.train(spec)
        job.wait()
    except exceptions.JobEnded:
        assert not job.message.attempts, "nothing was started for it"
        return job.message.failure.message
    except exceptions.WeighbridgeError as error:
        return str(error)
    raise AssertionError("the spec was accepted")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"config": {"model_type": "vitt"}}}, ["vitt", "vit"]),
        ({"model": {"path": "../../etc"}}, ["etc"]),
        ({"dataset": "missing"}, ["missing"]),
        ({"image": {"labels": ["circle", "triangle"]}}, ["triangle"]),
        ({"lora": {"r": 4, "target_modules": ["no_such_module"]}}, ["no_such_module"]),
        ({"training": {"per_device_train_batch_size": 60_000}}, ["60000"]),
        ({"quantization": {"method": "nf4"}}, ["quantization"]),
        ({"text": {"max_length": 128}}, ["text"]),
        ({"model": {"job": "t00000000"}}, ["t00000000"]),
    ],
)
def test_a_bad_spec_is_refused_with_the_field_and_the_limit(
    platform: Platform, changes: dict[str, Any], words: list[str]
) -> None:
    message = outcome_of(platform, tiny_vit(**changes))
    assert all(word in message for word in words), message


def test_contradicting_options_name_every_field_at_once(platform: Platform) -> None:
    spec = TrainingSpec(task=Task.TASK_IMAGE_CLASSIFICATION, model=ModelSource(hub="a/b"))
    spec.dataset = "projects/default/datasets/shapes"
    spec.training.num_train_epochs, spec.training.max_steps = 1, 1
    spec.evaluation.eval_steps = 3
    with pytest.raises(exceptions.InvalidRequest) as caught:
        platform.client.train(spec)
    assert set(caught.value.violations) == {"spec.training", "spec.evaluation"}


def test_a_wrong_token_gets_nothing(platform: Platform) -> None:
    stranger = Client(platform.address("gateway"), "not-the-token")
    with stranger, pytest.raises(exceptions.Unauthenticated):
        list(stranger.jobs.list())


def test_an_expired_deadline_and_an_oversized_message_are_told_apart(platform: Platform) -> None:
    with platform.channel("gateway") as channel:
        stub = TrainingServiceStub(channel)
        token = [("authorization", f"Bearer {platform.token('user')}")]
        name = "projects/default/trainingJobs/t1"
        with pytest.raises(grpc.RpcError) as late:
            stub.GetTrainingJob(GetTrainingJobRequest(name=name), timeout=1e-6, metadata=token)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as large:
            stub.GetTrainingJob(GetTrainingJobRequest(name="x" * (5 << 20)), timeout=30, metadata=token)
        assert large.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_another_projects_job_does_not_exist(platform: Platform) -> None:
    job = platform.client.train(tiny_vit(training={"max_steps": 1}))
    with pytest.raises(exceptions.NotFound):
        platform.client.jobs.get(job.name.replace("projects/default", "projects/other"))
    job.cancel()


def test_a_retried_create_makes_one_job_also_at_the_same_time(platform: Platform) -> None:
    spec = tiny_vit(training={"max_steps": 1})
    made: list[Job] = []
    threads = [
        threading.Thread(target=lambda: made.append(platform.client.train(spec, request_id="same")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in made}) == 1
    with pytest.raises(exceptions.RequestIdReused):
        platform.client.train(tiny_vit(training={"max_steps": 2}), request_id="same")
    made[0].cancel()
