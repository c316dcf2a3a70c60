"""What all runs of a trainer share."""

from dataclasses import dataclass, field
from pathlib import Path

from services.common.lease import Lease
from services.common.store import BlobStore
from services.trainer.cache import NodeCache
from services.trainer.engines.engine import Engine
from services.trainer.peers import HardwareNode
from services.trainer.runs.tombstones import Tombstones
from services.trainer.transfers import Transfers


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often things are looked at, and how long they are waited for."""

    tick_s: float = 0.2
    """Between two looks at a worker."""
    usage_s: float = 2.0
    """Between two reports of what a run uses."""
    retry_s: float = 2.0
    """Before a peer or the store is asked again."""
    publish_patience_s: float = 60.0
    """How long an ended run waits for the store to take its last checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The parts of a trainer that its runs use."""

    engine: Engine
    """Starts and ends workers."""
    node: HardwareNode
    """Promises memory."""
    lease: Lease
    """Says until when runs may go on."""
    store: BlobStore
    """Takes what runs make."""
    transfers: Transfers
    """Threads for the store."""
    cache: NodeCache
    """Holds what runs read."""
    tombstones: Tombstones
    """Refuses what is over."""
    model_root: Path
    """Local models that specs may name."""
    secrets_dir: Path
    """Secrets that specs may name."""
    pace: Pace = field(default_factory=Pace)
    """How often and how long."""
