"""What a run's container is, as the daemon is told, and which settings are refused."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from services.common.specs import ModelSource
from services.trainer.engines.container import container_name, probe_container, worker_container
from services.trainer.runs.directory import RunDirectory
from services.trainer.settings import TrainerSettings
from tests.trainer.specs import SPEC, resolved
from tests.trainer.worker.rundirs import LABELS, write_run, write_zip

DIGEST = "sha256:" + "0" * 64
GIB = 1 << 30


def settings(**changes: Any) -> TrainerSettings:
    return TrainerSettings(
        **{"engine": "docker", "port": 1, "docker_image": DIGEST, "docker_user": "5:6", **changes}
    )


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests: the settings are those of a service that runs as root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    data = write_zip(tmp_path / "data.zip", each=1)
    return write_run(tmp_path / "run-1", resolved(SPEC, data, LABELS), data, reserved_bytes=3 * GIB)


def created(directory: RunDirectory, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a worker's container, its second half as the SDK sends it."""
    container, host = worker_container(directory, {"SECRET": "s"}, settings(**changes))
    return container, APIClient(version="1.41").create_host_config(**host)


@pytest.mark.parametrize("image", ["", "worker", "worker:latest", "worker@sha256:12", "sha256:" + "0" * 63])
def test_an_image_whose_tag_may_mean_another_tomorrow_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match=r"names no digest.*repository@sha256"):
        settings(docker_image=image)


@pytest.mark.parametrize("image", [DIGEST, f"registry.test:5000/team/worker@{DIGEST}", f"worker:1@{DIGEST}"])
def test_an_image_is_named_by_its_digest(image: str) -> None:
    assert settings(docker_image=image).docker_image == image


@pytest.mark.parametrize(("user", "why"), [("", "as root"), ("0:6", "as root"), ("app", "not uid:gid")])
def test_workers_do_not_run_as_root(user: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        settings(docker_user=user)


def test_a_service_that_is_not_root_has_workers_of_its_own_user_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(os, "getegid", lambda: 8)
    assert settings(docker_user="").container_user == (7, 8)
    with pytest.raises(ValueError, match="cannot be given the run's directory"):
        settings(docker_user="5:6")


def test_nothing_is_asked_of_the_settings_while_workers_are_processes() -> None:
    assert TrainerSettings(port=1, docker_image="worker:latest").engine == "process"


def test_memory_is_what_is_reserved_and_there_is_no_swap_beside_it(directory: RunDirectory) -> None:
    _, host = created(directory)
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (3 * GIB, 3 * GIB, 3 * GIB)
    _, host = created(directory, docker_swap_bytes=GIB, docker_shm_bytes=GIB)
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (3 * GIB, 4 * GIB, GIB)


def test_a_path_that_is_named_twice_is_mounted_once(directory: RunDirectory) -> None:
    inputs = json.loads(directory.inputs_file.read_text())
    _, host = created(directory, docker_mounts=(Path(inputs["dataset_path"]),))
    mounted = {mount["Target"]: mount["ReadOnly"] for mount in host["Mounts"]}
    # The model root of this run is its own directory, which stays writable.
    assert mounted == {inputs["dataset_path"]: True, str(directory.path): False}
    assert len(host["Mounts"]) == 2


def test_a_run_on_the_cpu_gets_no_gpu_from_an_image_that_asks_for_all(directory: RunDirectory) -> None:
    container, host = created(directory)
    assert not host.get("DeviceRequests")
    assert container["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_a_run_gets_the_gpus_that_were_approved(directory: RunDirectory) -> None:
    record = directory.record_file.read_text().replace('"cpu"', '"cuda"')
    directory.record_file.write_text(record.replace('"host"', '"GPU-1234"'))
    container, host = created(directory)
    (request,) = host["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-1234"]
    assert (request["Count"], request["Driver"]) == (0, "")
    assert request["Capabilities"] == [["gpu", "compute", "utility"]]
    assert "NVIDIA_VISIBLE_DEVICES" not in container["environment"]
    assert "Memory" not in host


def test_only_a_model_from_the_hub_gets_a_network(directory: RunDirectory, tmp_path: Path) -> None:
    container, host = created(directory)
    assert host["NetworkMode"] == "none"
    spec = replace(SPEC, model=ModelSource(hub="team/model"))
    data = write_zip(tmp_path / "more.zip", each=1)
    online = write_run(tmp_path / "run-2", resolved(spec, data, LABELS), data)
    container, host = created(online, docker_network="egress")
    assert host["NetworkMode"] == "egress"
    cache = container["environment"]["HF_HUB_CACHE"]
    assert {mount["Target"]: mount["ReadOnly"] for mount in host["Mounts"]}[cache] is False


def test_the_environment_names_no_path_of_the_machine_and_no_other_gpu(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "CUDA_HOME", "WEIGHBRIDGE_TOKEN"):
        monkeypatch.setenv(name, "of this machine")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    container, _ = created(directory)
    environment = container["environment"]
    assert "of this machine" not in environment.values()
    assert (environment["OMP_NUM_THREADS"], environment["SECRET"]) == ("3", "s")


def test_runs_of_the_same_name_in_two_places_have_containers_of_two_names(tmp_path: Path) -> None:
    one, other = (container_name(RunDirectory(tmp_path / place / "job-1")) for place in "ab")
    assert one != other
    assert one.startswith("weighbridge-job-1-")


def test_the_image_is_asked_what_it_can_import_without_a_run() -> None:
    container, host = probe_container(["torch"], settings())
    assert container["command"] == ["python", "-m", "services.trainer.probe", "torch"]
    assert host["network_mode"] == "none"
