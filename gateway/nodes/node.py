"""A node as the gateway knows it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gateway.packed import Packed


class FleetNodeState(StrEnum):
    """Whether jobs are sent to a node; the contract describes each."""

    READY = "ready"
    NOT_READY = "not_ready"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    CORDONED = "cordoned"
    DRAINING = "draining"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the gateway reads in a node's snapshot."""

    name: str
    snapshot: Packed
    address: str
    trainer_address: str
    ready: bool
    ready_reason: str
    holding: tuple[str, ...]
    """Runs with an active reservation."""
    observe_time: datetime | None
    """By the node's own clock: it orders the node's snapshots, and says nothing else."""


@dataclass(frozen=True, kw_only=True)
class FleetNode:
    """A node's row; `ledger.tables.nodes` says what its fields are."""

    name: str
    identity: str
    snapshot: Packed
    address: str
    trainer_address: str
    ready: bool
    ready_reason: str
    holding: tuple[str, ...]
    observe_time: datetime | None
    heartbeat_time: datetime
    heartbeats: int
    reachable: bool
    lost: bool
    cordoned: bool
    draining: bool
    granted_lease_s: float
    lease_s: float
    version: int
    create_time: datetime

    @property
    def state(self) -> FleetNodeState:
        """Whether jobs are sent to it: what a person said goes before what the node says."""
        if self.lost:
            return FleetNodeState.LOST
        if not self.reachable:
            return FleetNodeState.UNREACHABLE
        if self.draining:
            return FleetNodeState.DRAINING
        if self.cordoned:
            return FleetNodeState.CORDONED
        return FleetNodeState.READY if self.ready else FleetNodeState.NOT_READY

    @property
    def state_reason(self) -> str:
        """Why, in words."""
        since = self.heartbeat_time.isoformat(timespec="seconds")
        return {
            FleetNodeState.LOST: f"given up: it has not reported since {since}; its jobs moved on",
            FleetNodeState.UNREACHABLE: f"it has not reported since {since}; its runs may go on",
            FleetNodeState.DRAINING: "drained by a person: its jobs move away",
            FleetNodeState.CORDONED: "cordoned by a person: it gets no new jobs",
        }.get(self.state, self.ready_reason)

    @property
    def takes_jobs(self) -> bool:
        """Whether the dispatcher may place a job on it."""
        return self.state is FleetNodeState.READY
