"""The trainer's settings."""

import os
import re
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from services.common.settings import PREFIX, CommonSettings

PROBED = (
    *("torch", "torchvision", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "triton"),
    *("flash_attn", "mamba_ssm", "causal_conv1d", "liger_kernel", "kernels"),
)

_DIGEST = re.compile(r"(.+@)?sha256:[0-9a-f]{64}")


class TrainerSettings(CommonSettings):
    """What the trainer can be told."""

    node: str = ""
    """Id of the node that it trains on. Empty: its hardware service tells."""
    hardware_target: str = "127.0.0.1:50051"
    """Where the node's hardware service answers."""
    advertise: str = ""
    """Its own address as the gateway should dial it. Empty: host and port."""
    engine: Literal["process", "docker"] = "process"
    """What a worker is: a process of this machine, or a container. Change it while no run lives."""
    docker_image: str = ""
    """Image of the workers by its digest: `repository@sha256:…`, or the `sha256:…` id of one that is here."""
    docker_host: str = "unix:///var/run/docker.sock"
    """Where the Docker daemon of this machine answers."""
    docker_user: str = ""
    """User that containers run as, `uid:gid` in numbers. Empty: the service's own, unless that is root."""
    docker_network: str = "bridge"
    """Network of runs that load their model from the hub. All others have none."""
    docker_swap_bytes: NonNegativeInt = 0
    """Swap that a run may use beside the memory reserved for it."""
    docker_shm_bytes: NonNegativeInt = 0
    """Size of a container's /dev/shm, a part of its memory. 0: all of that."""
    docker_tmp_bytes: PositiveInt = 1 << 30
    """Size of a container's /tmp, a part of its memory too."""
    docker_mounts: tuple[Path, ...] = ()
    """More paths of this machine that containers see, to read only, in JSON."""
    worker_command: tuple[str, ...] = ()
    """What runs a worker, in JSON; the run's directory is added. For tests. Empty: what the engine has."""
    classify_command: tuple[str, ...] = (sys.executable, "-m", "services.trainer.classify")
    """What classifies images, in JSON. For tests."""
    chat_command: tuple[str, ...] = (sys.executable, "-m", "services.trainer.chats.child")
    """What talks for a language model, in JSON; its directory is added. For tests."""
    chat_idle_s: PositiveFloat = Field(default=600.0, validation_alias=f"{PREFIX}CHAT_IDLE")
    """How long a chat may rest before it is ended, since its memory is nobody else's meanwhile."""
    probed_packages: tuple[str, ...] = PROBED
    """Packages that it looks for, in JSON."""
    cache_bytes: PositiveInt = 100 << 30
    """Size at which the cache of data, models and checkpoints forgets what was used longest ago."""
    report_s: PositiveFloat = Field(default=5.0, validation_alias=f"{PREFIX}REPORT")
    """Time between two reports to the node, which a restarted hardware service waits for."""
    classify_timeout_s: PositiveFloat = Field(default=120.0, validation_alias=f"{PREFIX}CLASSIFY_TIMEOUT")
    """Time that classifying the images of one call may take."""
    end_workers: bool = False
    """Whether the workers end with the service, as on a laptop. Otherwise they go on, and are found again."""

    @model_validator(mode="after")
    def _refuse_an_address_that_nobody_knows(self) -> Self:
        if not (self.port or self.advertise):
            raise ValueError(f"the gateway must find the trainer: set {PREFIX}PORT, or {PREFIX}ADVERTISE too")
        return self

    @model_validator(mode="after")
    def _refuse_what_containers_must_not_be(self) -> Self:
        if self.engine != "docker":
            return self
        if not _DIGEST.fullmatch(self.docker_image):
            raise ValueError(
                f"{PREFIX}DOCKER_IMAGE={self.docker_image!r} names no digest, and what a tag means may "
                "change from one attempt of a run to the next: give repository@sha256:…, or the id that "
                "`docker image inspect --format '{{.Id}}'` prints"
            )
        uid, own = self.container_user[0], os.geteuid()
        if uid == 0:
            raise ValueError(f"containers do not run as root: set {PREFIX}DOCKER_USER to another uid:gid")
        if own not in (0, uid):
            raise ValueError(
                f"{PREFIX}DOCKER_USER={self.docker_user} cannot be given the run's directory by uid {own}: "
                "leave it empty, or let the service run as root"
            )
        return self

    @property
    def container_user(self) -> tuple[int, int]:
        """User and group that containers run as. Raises ValueError where they are no numbers."""
        if not self.docker_user:
            return os.geteuid(), os.getegid()
        uid, _, gid = self.docker_user.partition(":")
        if not (uid.isdigit() and gid.isdigit()):
            # A name may be another number inside the image.
            raise ValueError(f"{PREFIX}DOCKER_USER={self.docker_user!r} is not uid:gid in numbers")
        return int(uid), int(gid)

    @property
    def address(self) -> str:
        """Where the gateway finds this trainer."""
        return self.advertise or f"{self.host}:{self.port}"

    @property
    def runs_dir(self) -> Path:
        """Directory of the run directories."""
        return self.state_dir / "runs"
