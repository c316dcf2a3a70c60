"""What the hardware service can be told, beside what every service can."""

import uuid
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.common.atomic import write_text
from services.common.settings import PREFIX, CommonSettings

Role = Literal["node", "estimator"]


class HardwareSettings(CommonSettings):
    """Settings of both roles."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, populate_by_name=True)

    roles: Annotated[tuple[Role, ...], NoDecode] = ("node", "estimator")
    """What this process does, separated by commas."""
    node: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{0,62})?$")
    """Id of the node. Empty: one is drawn and kept in the state directory."""
    gateway_target: str = ""
    """Where the gateway answers. Empty: the node belongs to no fleet, and nobody can reserve but by hand."""
    advertise: str = ""
    """Where others reach this service, `host:port`. Empty: as it is bound."""
    held_ttl_s: PositiveFloat = Field(default=120.0, validation_alias=f"{PREFIX}HELD_TTL")
    """Time that an approved run has to start before its memory is free again."""
    capacity_bytes: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Device id to bytes, as JSON: what jobs may have of `host`, `disk` or a GPU (its UUID), if not all."""
    heartbeat_s: PositiveFloat = Field(default=5.0, validation_alias=f"{PREFIX}HEARTBEAT")
    """Longest time between two reports to the gateway, which may ask for another."""
    estimate_timeout_s: PositiveFloat = Field(default=120.0, validation_alias=f"{PREFIX}ESTIMATE_TIMEOUT")
    """Time that resolving or estimating one spec may take before its process is ended."""

    @field_validator("roles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _refuse_a_fleet_without_an_address(self) -> Self:
        if not self.roles:
            raise ValueError(f"{PREFIX}ROLES names no role: node, estimator, or both")
        if "node" in self.roles and self.gateway_target and not (self.advertise or self.port):
            raise ValueError(f"{PREFIX}ADVERTISE or {PREFIX}PORT is needed: the gateway calls this node back")
        return self

    @property
    def address(self) -> str:
        """Where others reach this service."""
        return self.advertise or f"{self.host}:{self.port}"

    def node_id(self) -> str:
        """Return the node's id, the same at every start. Draws one and writes it down the first time."""
        return self.node or _kept_id(self.state_dir / "node_id")


def _kept_id(path: Path) -> str:
    if not path.exists():
        write_text(path, f"{uuid.uuid4()}\n")
    return path.read_text().strip()
