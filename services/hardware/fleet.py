"""What the node and its gateway say to each other: parts of weighbridge.gateway.v1, field by field."""

from dataclasses import dataclass

from services.hardware.resources import Approval


@dataclass(frozen=True, kw_only=True)
class LiveAttempt:
    """An attempt that may hold memory on the node."""

    run: str
    approval: Approval | None = None


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The gateway's answer to a registration."""

    live_attempts: tuple[LiveAttempt, ...] = ()
    node_lease_s: float | None = None
    heartbeat_interval_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """The gateway's answer to a heartbeat."""

    register_again: bool = False
    node_lease_s: float | None = None
