"""What stands in the cache: 1:1 with weighbridge.trainer.v1, where every field is described."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """One revision of a repository."""

    repository: str
    revision: str
    size_bytes: int
    file_count: int
    last_used_time: datetime
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PullProgress:
    """How far the download of a model is."""

    revision: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was removed, and the room that this made."""

    models: tuple[CachedModel, ...]
    freed_bytes: int
