"""A Docker daemon of the tests' own, whose one image holds nothing: what runs in it is mounted from here."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, DockerException, NotFound

from services.trainer.engines.container import RUN_LABEL
from tests.common.processes import ROOT

# Of a user that no machine knows.
USER = "51234:51234"
MOUNTS = sorted({"/usr", sys.prefix, sys.base_prefix, str(ROOT)})
_PATIENCE_S = 60.0


class Dockerd:
    """The daemon, which can be killed and started again on the same state."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.host = f"unix://{directory / 'socket'}"
        self.image = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it and wait until it answers. Raises DockerException where it does not."""
        directory = self._directory
        command = [
            *("dockerd", "--host", self.host, "--data-root", str(directory / "data")),
            *("--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid")),
            # Needs no file system of its own, and nothing of the machine's network is touched.
            *("--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false"),
            *options,
        ]
        # Left by a daemon that was killed: it would wait for the containerd that died with it.
        for name in ("socket", "exec/containerd/containerd.pid"):
            (directory / name).unlink(missing_ok=True)
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end_s = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() >= end_s:
                raise DockerException((directory / "log").read_text()[-500:])
            time.sleep(0.05)

    def _answers(self) -> bool:
        # Not asked by the library: it leaves a socket open that finds nobody.
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(self._directory / "socket"))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(100)
        return False

    def api(self) -> docker.APIClient:
        """Return a client, to be closed."""
        return docker.APIClient(self.host, version="auto")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon, by default as an administrator does, and wait until it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    def containers(self) -> list[dict[str, Any]]:
        """Return the container of every run, ended or not."""
        found = []
        with contextlib.closing(self.api()) as api:
            for each in api.containers(all=True, filters={"label": RUN_LABEL}):
                # It may be removed in between.
                with contextlib.suppress(NotFound):
                    found.append(api.inspect_container(each["Id"]))
        return found

    def import_image(self) -> None:
        """Make the image, and run a container of it."""
        with contextlib.closing(self.api()) as api:
            answer = api.import_image_from_data(_tree(), repository="worker")
            self.image = answer.split('"status":"')[-1].split('"')[0]
            binds = {path: {"bind": path, "mode": "ro"} for path in MOUNTS}
            host = api.create_host_config(binds=binds, network_mode="none", mem_limit=1 << 27, init=True)
            trial = api.create_container(self.image, [sys.executable, "-c", ""], host_config=host)
            api.start(trial)
            if status := api.wait(trial)["StatusCode"]:
                raise DockerException(f"a container ended with status {status}")
            api.remove_container(trial)

    def clear(self) -> None:
        """Remove every container."""
        with contextlib.closing(self.api()) as api:
            while found := api.containers(all=True):
                for each in found:
                    # The engine may be about to.
                    with contextlib.suppress(APIError):
                        api.remove_container(each["Id"], force=True)

    def settings(self, *command: str) -> dict[str, Any]:
        """Return the settings of a trainer whose workers are containers, each `command` on its run."""
        return {
            "engine": "docker",
            "docker_host": self.host,
            "docker_image": self.image,
            "docker_user": USER,
            "docker_mounts": [Path(path) for path in MOUNTS],
            "worker_command": command,
        }


def _tree() -> bytes:
    """Return the image's files: the names by which programs are called, which /usr will stand behind."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in sorted(Path("/").iterdir()):
            # The daemon's own init goes into /sbin, which must not be behind a mount then.
            if path.is_symlink() and path.readlink().parts[0] == "usr" and path.name != "sbin":
                link = tarfile.TarInfo(path.name)
                link.type, link.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(link)
        # What is mounted over the second has its mode.
        for name, mode in {"etc": 0o755, "tmp": 0o1777}.items():
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            archive.addfile(directory)
    return data.getvalue()


@contextmanager
def dockerd() -> Iterator[Dockerd]:
    """Start a daemon that leaves containers alone when it ends; skip, with the reason, where none can be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a Docker daemon of one's own needs Linux and root")
    if shutil.which("dockerd") is None:
        pytest.skip("no dockerd here: Debian has it in the package docker.io")
    # A socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="dockerd-"))
    daemon = Dockerd(directory)
    try:
        try:
            daemon.start("--live-restore")
            daemon.import_image()
        except (DockerException, OSError) as error:
            pytest.skip(f"no container can be run here: {error}")
        yield daemon
        daemon.clear()
    finally:
        daemon.stop()
        # It mounts its data onto themselves, and with containers that are to stay, it leaves that behind.
        subprocess.run(["umount", "--quiet", "--recursive", str(directory / "data")], check=False)
        shutil.rmtree(directory, ignore_errors=True)
