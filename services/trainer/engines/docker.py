"""The Docker engine: a worker is a container of this machine, confined to its run.

A container is known by its name, which outlives the service and the daemon. That a worker lives, the run's
locks say too, and while they do, the daemon is not asked: a run goes on being watched while that is away.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from services.common.errors import PeerUnavailable
from services.trainer.engines.container import Container, container_name, worker_container, writable
from services.trainer.engines.engine import WorkerEnd, WorkerState
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.locks import is_claimed, is_held
from services.trainer.settings import TrainerSettings

log = logging.getLogger(__name__)

_KILL_S = 1.0
_LOOK_S = 0.02
_SIGNALLED = 128


class DockerEngine:
    """An Engine whose workers are containers."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._connecting = threading.Lock()
        self._client: docker.APIClient | None = None
        self._refusals: dict[Path, str] = {}

    def spawn(self, directory: RunDirectory, env: Mapping[str, str]) -> None:
        """Start a container on the run, unless it has one that runs.

        What the daemon refuses, `end` tells: the run then has no worker, and never gets one.
        """
        with self._daemon() as api:
            if _runs(self._find(directory)):
                return
            # Created by a service that died before it was started, or ended before it had claimed the run.
            self._remove(directory)
            try:
                self._start(api, directory, env)
            except APIError as error:
                reason = f"no container could be started: {error.explanation or error}"
                self._refusals[directory.path] = reason
                log.error("no container", extra={"run_dir": str(directory.path), "error": str(error)})

    def state(self, directory: RunDirectory) -> WorkerState:
        """Say whether the run has a worker."""
        # Before the claim, the locks are not probed: that could make a worker lose it to nobody.
        if is_claimed(directory.claim) and (is_held(directory.alive) or is_held(directory.claim)):
            return WorkerState.LIVING
        if _runs(self._find(directory)):
            return WorkerState.LIVING
        return WorkerState.GONE if is_claimed(directory.claim) else WorkerState.ABSENT

    def end(self, directory: RunDirectory) -> WorkerEnd:
        """Return how the container ended. Known until `forget`, whichever service started it."""
        container = self._find(directory)
        refusal = self._refusals.get(directory.path, "")
        if container is None or _runs(container):
            return WorkerEnd(detail=refusal)
        state = container["State"]
        if state["Status"] == "created":
            return WorkerEnd(detail=refusal or state["Error"])
        return WorkerEnd(status=_status(state["ExitCode"]), out_of_memory=state["OOMKilled"])

    def terminate(self, directory: RunDirectory) -> None:
        """Ask the worker to write a checkpoint and end (SIGTERM)."""
        self._signal(directory, signal.SIGTERM)

    def kill(self, directory: RunDirectory) -> bool:
        """Kill every process of the run. Returns False while one is left: call again."""
        self._signal(directory, signal.SIGKILL)
        end_s = time.monotonic() + _KILL_S
        while _runs(self._find(directory)):
            if time.monotonic() >= end_s:
                return False
            time.sleep(_LOOK_S)
        return True

    def forget(self, directory: RunDirectory) -> None:
        """Remove the container of a run that has ended."""
        self._refusals.pop(directory.path, None)
        self._remove(directory)

    def ask(self, container: Container) -> tuple[int, bytes]:
        """Run a container to its end; return its exit status, or minus a signal, and what it printed.

        Raises:
            APIError: the daemon does not start it.
        """
        with self._daemon() as api:
            self._have_image(api)
            created = _create(api, container)
            try:
                api.start(created)
                status = _status(api.wait(created)["StatusCode"])
                return status, api.logs(created, stdout=True, stderr=False)
            finally:
                api.remove_container(created, force=True, v=True)

    def close(self) -> None:
        """Let go of the daemon."""
        if self._client is not None:
            self._client.close()

    def _start(self, api: docker.APIClient, directory: RunDirectory, env: Mapping[str, str]) -> None:
        self._have_image(api)
        self._hand_over(directory)
        api.start(_create(api, worker_container(directory, env, self._settings)))

    def _have_image(self, api: docker.APIClient) -> None:
        image = self._settings.docker_image
        try:
            api.inspect_image(image)
        except ImageNotFound:
            # An id belongs to this daemon's own images: no registry knows it.
            if "@" not in image:
                raise
            log.info("pulling the image of the workers", extra={"image": image})
            for line in api.pull(image, stream=True, decode=True):
                # The answer began before it was known to be one of these.
                if "error" in line:
                    raise ImageNotFound(line["error"], explanation=line["error"]) from None

    def _hand_over(self, directory: RunDirectory) -> None:
        """Let the container's user write where the worker writes."""
        for path in writable(directory):
            path.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(path, *self._settings.container_user)

    def _signal(self, directory: RunDirectory, number: signal.Signals) -> None:
        with self._daemon() as api, _unless_over():
            api.kill(container_name(directory), number.name)

    def _find(self, directory: RunDirectory) -> dict[str, Any] | None:
        with self._daemon() as api:
            try:
                found: dict[str, Any] = api.inspect_container(container_name(directory))
            except NotFound:
                return None
            return found

    def _remove(self, directory: RunDirectory) -> None:
        with self._daemon() as api, _unless_over():
            # With its anonymous volumes, which an image may declare.
            api.remove_container(container_name(directory), force=True, v=True)

    @contextlib.contextmanager
    def _daemon(self) -> Iterator[docker.APIClient]:
        """Yield a client of the daemon; raise PeerUnavailable where it does not answer."""
        try:
            yield self._connected()
        # An answer, of whatever kind.
        except APIError:
            raise
        except (DockerException, requests.RequestException) as error:
            raise PeerUnavailable(f"the Docker daemon at {self._settings.docker_host}") from error

    def _connected(self) -> docker.APIClient:
        with self._connecting:
            # Not before it is needed: a service may come up before its daemon.
            if self._client is None:
                self._client = docker.APIClient(self._settings.docker_host, version="auto")
            return self._client


@contextlib.contextmanager
def _unless_over() -> Iterator[None]:
    """Pass over the answers that a container is not there, does not run, or is being removed."""
    try:
        yield
    except APIError as error:
        if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def _create(api: docker.APIClient, container: Container) -> str:
    created, host = container
    identifier: str = api.create_container(**created, host_config=api.create_host_config(**host))["Id"]
    return identifier


def _runs(container: dict[str, Any] | None) -> bool:
    # Also paused or being restarted: Docker's own word covers these.
    return container is not None and bool(container["State"]["Running"])


def _status(code: int) -> int:
    """Return an exit status as Python has it: minus the signal that ended the process."""
    return code if code <= _SIGNALLED else _SIGNALLED - code
