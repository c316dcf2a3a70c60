"""`weighbridge up`: who may call what, what is left behind, and the real services."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import psutil
import pytest

from weighbridge import Client
from weighbridge.cli.exits import CommandError, Exit
from weighbridge.cli.up.home import Home
from weighbridge.cli.up.identities import METHODS, create_identities
from weighbridge.cli.up.leftovers import end_workers
from weighbridge.cli.up.platform import Platform
from weighbridge.cli.up.services import Service, choose_ports, plan
from weighbridge.exceptions import Unavailable
from weighbridge.gateway.v1 import service_pb2 as gateway_api
from weighbridge.hardware.v1 import service_pb2 as hardware_api
from weighbridge.trainer.v1 import service_pb2 as trainer_api

PORTS = {"gateway": 7700, "hardware": 7701, "trainer": 7702}


@pytest.fixture
def place(home: Path) -> Home:
    made = Home(home)
    made.create()
    return made


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; the limit only ends a test that hangs."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.05)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def all_methods() -> list[str]:
    files = (gateway_api.DESCRIPTOR, hardware_api.DESCRIPTOR, trainer_api.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def callers(method: str) -> set[str]:
    return {
        identity
        for identity, patterns in METHODS.items()
        if any(fnmatchcase(method, pattern) for pattern in patterns)
    }


def test_every_method_has_exactly_the_callers_that_need_it() -> None:
    node = "/weighbridge.hardware.v1.NodeService"
    fleet = "/weighbridge.gateway.v1.FleetService"
    several = {f"{node}/ReleaseReservation": {"gateway", "trainer"}}
    assert {method: callers(method) for method in all_methods() if len(callers(method)) != 1} == several
    assert callers(f"{node}/Reserve") == {"gateway"}
    assert callers(f"{node}/ActivateReservation") == {"trainer"}
    assert callers(f"{fleet}/HeartbeatNode") == {"hardware"}
    assert callers(f"{fleet}/DrainNode") == {"user"}
    assert callers("/weighbridge.trainer.v1.TrainerService/StartRun") == {"gateway"}
    assert callers("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") == {"user"}


def test_tokens_are_their_owners_alone_and_are_kept(place: Home) -> None:
    create_identities(place)
    tokens = {identity: place.token_file(identity).read_text() for identity in METHODS}
    assert len(set(tokens.values())) == 4
    assert {mode(place.token_file(identity)) for identity in METHODS} == {"0o600"}
    assert {mode(place.root), mode(place.root / "tokens")} == {"0o700"}
    assert mode(place.identities_file) == "0o600"
    create_identities(place)
    assert {identity: place.token_file(identity).read_text() for identity in METHODS} == tokens


def test_the_table_holds_no_token_and_keeps_what_others_entered(place: Home) -> None:
    create_identities(place)
    table = json.loads(place.identities_file.read_text())
    alice = {"identity": "user", "name": "alice", "token_sha256": "0" * 64, "methods": [], "projects": ["a"]}
    place.identities_file.write_text(json.dumps({"identities": [*table["identities"], alice]}))
    create_identities(place)
    text = place.identities_file.read_text()
    assert json.loads(text)["identities"] == [*table["identities"], alice]
    assert all(place.token_file(identity).read_text().strip() not in text for identity in METHODS)


def test_services_get_their_own_settings_and_the_callers(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_CAPACITY_BYTES", '{"host": 1}')
    monkeypatch.setenv("WEIGHBRIDGE_TOKEN", "the caller's")
    monkeypatch.setenv("WEIGHBRIDGE_STATE_DIR", "elsewhere")
    services = {service.name: service for service in plan(place, PORTS, "n1", keep_running=False)}
    hardware, trainer = services["hardware"].env, services["trainer"].env
    assert hardware["WEIGHBRIDGE_CAPACITY_BYTES"] == '{"host": 1}'
    assert hardware["WEIGHBRIDGE_STATE_DIR"] == str(place.root / "hardware")
    assert hardware["WEIGHBRIDGE_GATEWAY_TARGET"] == "127.0.0.1:7700"
    assert trainer["WEIGHBRIDGE_TOKEN_FILE"] == str(place.token_file("trainer"))
    assert trainer["WEIGHBRIDGE_END_WORKERS"] == "true"
    assert "WEIGHBRIDGE_TOKEN" not in trainer
    assert {service.env["WEIGHBRIDGE_STORE_URL"] for service in services.values()} == {
        f"file://{place.root}/store"
    }


def test_a_taken_port_is_named_with_the_option_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CommandError, match=rf"port {port} for the trainer service is taken.*--trainer-port"
        ):
            choose_ports({"trainer": port})


def test_free_ports_are_all_different() -> None:
    assert len(set(choose_ports(dict.fromkeys(PORTS, 0)).values())) == 3


def test_a_second_one_in_the_same_home_is_refused(place: Home) -> None:
    with place.occupied():
        assert place.running() == os.getpid()
        with (
            pytest.raises(CommandError, match=f"running already, as process {os.getpid()}"),
            place.occupied(),
        ):
            pass
    assert place.running() is None


def test_a_service_that_dies_at_its_start_is_shown_with_its_log(place: Home) -> None:
    services = [
        Service(name, "weighbridge.no_such_module", port, dict(os.environ)) for name, port in PORTS.items()
    ]
    platform = Platform(services, place, keep_running=False)
    try:
        with pytest.raises(
            CommandError, match=r"(?s)service ended with status 1.*No module named weighbridge\.no"
        ):
            platform.start()
    finally:
        platform.kill()


WORKER = """
import fcntl, os, pathlib, sys, time
run = pathlib.Path(sys.argv[1])
(run / "claim").write_text(str(os.getpid()))
alive = open(run / "alive", "w")
if sys.argv[2] == "locked":
    fcntl.flock(alive, fcntl.LOCK_EX)
    # The child has the lock too, and goes on when its parent is killed.
    if os.fork() == 0:
        time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""


def worker(run: Path, how: str) -> subprocess.Popen[str]:
    run.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(run), how],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "ready\n"
    return process


def test_a_worker_that_was_left_behind_is_ended_with_its_children(tmp_path: Path) -> None:
    process = worker(tmp_path / "runs" / "t1-1", "locked")
    (child,) = psutil.Process(process.pid).children()
    assert end_workers(tmp_path / "runs") == 1
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: is_gone(child.pid))
    assert end_workers(tmp_path / "runs") == 0


def test_a_process_that_only_has_the_id_of_a_worker_is_left_alone(tmp_path: Path) -> None:
    process = worker(tmp_path / "runs" / "t1-1", "unlocked")
    try:
        assert end_workers(tmp_path / "runs") == 0
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


class Up:
    """`weighbridge up` as a real process on free ports."""

    def __init__(self, home: Path, *options: str) -> None:
        # No package is tried, which takes longest.
        settings = {"WEIGHBRIDGE_PROBED_PACKAGES": "[]", "WEIGHBRIDGE_HOME": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "weighbridge.cli", "up", "--port", "0", "--json", *options],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.said = json.loads(line)

    def services(self) -> dict[str, int]:
        """Return the services' process ids."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                # Of a child that has only just been forked, the command line is still its parent's.
                if is_running(child) and child.cmdline()[-1].endswith(".server"):
                    found[child.cmdline()[-1].split(".")[-2]] = child.pid
        return found

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)


@pytest.fixture
def up(home: Path) -> Iterator[Up]:
    started = Up(home)
    yield started
    started.stop()


def serves() -> bool:
    with Client() as client, contextlib.suppress(Unavailable):
        return bool(client.nodes())
    return False


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def is_gone(pid: int) -> bool:
    try:
        return not is_running(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def test_the_platform_serves_heals_itself_and_leaves_nothing_behind(up: Up, home: Path) -> None:
    with Client() as client:
        assert client.target == up.said["target"]
        assert [node.name for node in client.nodes()] == ["nodes/local"]
    services = up.services()
    assert sorted(services) == ["gateway", "hardware", "trainer"]

    second = subprocess.run(
        [sys.executable, "-m", "weighbridge.cli", "up", "--port", "0"], capture_output=True, text=True
    )
    assert second.returncode == Exit.CONFLICT
    assert "running already" in second.stderr

    os.kill(services["gateway"], signal.SIGKILL)
    wait_for(lambda: up.services().get("gateway", services["gateway"]) != services["gateway"])
    wait_for(serves)

    services = up.services()
    up.process.send_signal(signal.SIGINT)
    _, told = up.process.communicate(timeout=60)
    assert up.process.returncode == Exit.OK
    assert re.search(r"gateway ended \(signal SIGKILL\), see .*gateway\.log; it starts again in 1 s", told)
    assert all(map(is_gone, services.values()))


def test_a_killed_supervisor_takes_its_services_with_it(up: Up, home: Path) -> None:
    services = up.services()
    up.process.kill()
    wait_for(lambda: all(map(is_gone, services.values())))


def test_in_the_background_until_it_is_told_to_stop(home: Path) -> None:
    settings = {**os.environ, "WEIGHBRIDGE_PROBED_PACKAGES": "[]", "COLUMNS": "120"}
    command = [sys.executable, "-m", "weighbridge.cli"]
    started = subprocess.run(
        [*command, "up", "--port", "0", "--detach"], env=settings, capture_output=True, text=True
    )
    try:
        assert started.returncode == Exit.OK, started.stderr
        assert "host memory" in started.stdout
        assert "`weighbridge down` stops it" in started.stderr
    finally:
        stopped = subprocess.run([*command, "down", "--json"], capture_output=True, text=True)
    assert json.loads(stopped.stdout) == {"home": str(home), "stopped": True}
    again = subprocess.run([*command, "down"], capture_output=True, text=True)
    assert "was not running" in again.stdout
