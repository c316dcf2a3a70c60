"""Workers in containers: what confines them, and what the engine knows of them."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.trainer.engines.docker import DockerEngine
from services.trainer.engines.engine import WorkerEnd, WorkerState
from services.trainer.runs.directory import RunDirectory
from services.trainer.settings import TrainerSettings
from tests.trainer.engines.dockerd import USER, Dockerd
from tests.trainer.specs import SPEC, resolved
from tests.trainer.worker.rundirs import LABELS, outcome, write_run, write_zip

MIB = 1 << 20
PRYING = Path(__file__).with_name("prying_worker.py")
MakeEngine = Callable[..., DockerEngine]


@pytest.fixture
def engine_of(daemon: Dockerd) -> Iterator[MakeEngine]:
    """Makes engines whose workers are a command on the run."""
    engines: list[DockerEngine] = []

    def make(*command: str) -> DockerEngine:
        engines.append(DockerEngine(TrainerSettings(**{"port": 1, **daemon.settings(*command)})))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def run_of(tmp_path: Path, reserved_bytes: int = 1 << 30) -> RunDirectory:
    """Return the directory of a run that learns from a small data set; another's lies beside that."""
    cache = tmp_path / "cache"
    cache.mkdir()
    data = write_zip(cache / "data.zip")
    write_zip(cache / "of-another-project.zip", each=1)
    run = resolved(SPEC, data, LABELS)
    return write_run(tmp_path / "run-1", run, data, reserved_bytes=reserved_bytes, model_root=tmp_path / "no")


def end_of(engine: DockerEngine, directory: RunDirectory) -> WorkerEnd:
    """Wait until the worker is no more; return how it ended, with nothing left of it."""
    while engine.state(directory) is WorkerState.LIVING:
        time.sleep(0.05)
    assert engine.kill(directory)
    end = engine.end(directory)
    engine.forget(directory)
    assert engine.end(directory) == WorkerEnd()
    return end


def test_a_worker_is_confined_to_its_run(engine_of: MakeEngine, tmp_path: Path) -> None:
    directory = run_of(tmp_path)
    engine = engine_of(sys.executable, str(PRYING))
    engine.spawn(directory, {"SECRET": "s"})
    assert end_of(engine, directory).status == 0, directory.log_file.read_text()
    facts = json.loads(directory.log_file.read_text())
    assert facts["user"] == [int(part) for part in USER.split(":")]
    assert facts["groups"] in ([], [facts["user"][1]])
    assert facts["status"]["CapEff"] == facts["status"]["CapBnd"] == "0" * 16
    assert (facts["status"]["NoNewPrivs"], facts["status"]["Seccomp"]) == ("1", "2")
    assert facts["writable"] == [str(directory.path), "/tmp", "/dev/shm"]
    assert facts["interfaces"] == ["lo"]
    assert facts["others_data"] == ["data.zip"]
    assert "SECRET" in facts["environment"]
    assert not [name for name in facts["environment"] if name.startswith("PYTEST")]


def test_what_a_worker_tells_by_clock_and_memory_holds_inside_a_container(
    engine_of: MakeEngine, tmp_path: Path
) -> None:
    """The end of the node's lease is a moment of the machine's clock; memory is that of the whole group."""
    directory = run_of(tmp_path)
    engine = engine_of(sys.executable, str(PRYING))
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    engine.spawn(directory, {})
    end_of(engine, directory)
    facts = json.loads(directory.log_file.read_text())
    assert before_s < facts["boottime_s"] < time.clock_gettime(time.CLOCK_BOOTTIME)
    memory = facts["memory"]
    assert memory["members"] == 2
    assert 64 * MIB < memory["both_bytes"] - memory["alone_bytes"] < 96 * MIB


def test_a_real_worker_trains_in_a_container(engine_of: MakeEngine, tmp_path: Path) -> None:
    directory = run_of(tmp_path, 2 << 30)
    engine = engine_of(sys.executable, "-m", "services.trainer.worker")
    engine.spawn(directory, {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert end_of(engine, directory) == WorkerEnd(status=0), directory.log_file.read_text()
    found = outcome(directory)
    assert found["state"] == "succeeded"
    assert found["peaks"][0]["peak_bytes"] > 100 * MIB
    assert (directory.artifact / "model.safetensors").exists()


def test_one_run_has_one_container(daemon: Dockerd, engine_of: MakeEngine, tmp_path: Path) -> None:
    directory = run_of(tmp_path)
    engine, another = (engine_of("/bin/sh", "-c", "sleep 1000") for _ in range(2))
    engine.spawn(directory, {})
    (container,) = daemon.containers()
    another.spawn(directory, {})
    assert [each["Id"] for each in daemon.containers()] == [container["Id"]]
    labels = container["Config"]["Labels"]
    assert labels == {"weighbridge.run": "runs/test-1", "weighbridge.run-dir": str(directory.path)}
    assert another.state(directory) is WorkerState.LIVING
    assert another.kill(directory)
    another.forget(directory)
    assert daemon.containers() == []


def test_a_paused_container_is_killed_too(daemon: Dockerd, engine_of: MakeEngine, tmp_path: Path) -> None:
    directory = run_of(tmp_path)
    engine = engine_of("/bin/sh", "-c", "sleep 1000")
    engine.spawn(directory, {})
    with contextlib.closing(daemon.api()) as api:
        api.pause(daemon.containers()[0]["Id"])
    assert engine.state(directory) is WorkerState.LIVING
    while not engine.kill(directory):
        pass
    engine.forget(directory)


def test_a_gpu_that_the_daemon_cannot_give_is_told(engine_of: MakeEngine, tmp_path: Path) -> None:
    directory = run_of(tmp_path)
    record = directory.record_file.read_text().replace('"cpu"', '"cuda"')
    directory.record_file.write_text(record.replace('"host"', '"GPU-1234"'))
    engine = engine_of("true")
    engine.spawn(directory, {})
    assert engine.state(directory) is WorkerState.ABSENT
    assert "device driver" in engine.end(directory).detail
    # Also of a service that comes later.
    assert "device driver" in engine_of("true").end(directory).detail
    engine.forget(directory)


def test_the_library_is_not_needed_where_workers_are_processes() -> None:
    code = "import sys, services.trainer.server; sys.exit('docker' in sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
