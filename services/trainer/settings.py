"""The trainer's settings."""

import sys
from pathlib import Path
from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from services.common.settings import PREFIX, CommonSettings

PROBED = (
    *("torch", "torchvision", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "triton"),
    *("flash_attn", "mamba_ssm", "causal_conv1d", "liger_kernel", "kernels"),
)


class TrainerSettings(CommonSettings):
    """What the trainer can be told."""

    node: str = ""
    """Id of the node that it trains on. Empty: its hardware service tells."""
    hardware_target: str = "127.0.0.1:50051"
    """Where the node's hardware service answers."""
    advertise: str = ""
    """Its own address as the gateway should dial it. Empty: host and port."""
    worker_command: tuple[str, ...] = (sys.executable, "-m", "services.trainer.worker")
    """What runs a worker, in JSON; the run's directory is added. For tests."""
    classify_command: tuple[str, ...] = (sys.executable, "-m", "services.trainer.classify")
    """What classifies images, in JSON. For tests."""
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

    @property
    def address(self) -> str:
        """Where the gateway finds this trainer."""
        return self.advertise or f"{self.host}:{self.port}"

    @property
    def runs_dir(self) -> Path:
        """Directory of the run directories."""
        return self.state_dir / "runs"
