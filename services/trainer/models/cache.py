"""What stands in the hub's cache, and removing it."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime

from huggingface_hub import CachedRevisionInfo, CacheNotFound, HFCacheInfo, scan_cache_dir

from services.trainer.models.partial import SUFFIX
from services.trainer.models.records import CachedModel

log = logging.getLogger(__name__)


def cached_models() -> list[CachedModel]:
    """Return the models in the cache, by repository and revision."""
    found = [
        _model(repository.repo_id, revision)
        for repository in _scan().repos
        if repository.repo_type == "model"
        for revision in repository.revisions
    ]
    return sorted(found, key=lambda model: (model.repository, model.revision))


def remove(repository: str, commits: Iterable[str]) -> int:
    """Remove revisions of a repository, with what broken downloads left of it; return the bytes freed."""
    # The library deletes by commit alone, wherever it stands: forks may share one.
    whole = _scan()
    ours = [each for each in whole.repos if (each.repo_type, each.repo_id) == ("model", repository)]
    scan = HFCacheInfo(
        size_on_disk=whole.size_on_disk,
        repos=frozenset(ours),
        incomplete_files=frozenset(),
        warnings=[],
        cache_dir=whole.cache_dir,
    )
    plan = scan.delete_revisions(*commits)
    freed_bytes = plan.expected_freed_size
    for each in ours:
        for part in (each.repo_path / "blobs").glob(f"*{SUFFIX}"):
            freed_bytes += part.stat().st_size
            part.unlink()
    plan.execute()
    return freed_bytes


def _scan() -> HFCacheInfo:
    try:
        found = scan_cache_dir()
    except CacheNotFound:
        return HFCacheInfo(0, frozenset(), frozenset(), [])
    for warning in found.warnings:
        log.warning("a part of the hub's cache cannot be read", extra={"detail": str(warning)})
    return found


def _model(repository: str, revision: CachedRevisionInfo) -> CachedModel:
    used_s = [max(file.blob_last_accessed, file.blob_last_modified) for file in revision.files]
    return CachedModel(
        repository=repository,
        revision=revision.commit_hash,
        size_bytes=revision.size_on_disk,
        file_count=revision.nb_files,
        last_used_time=datetime.fromtimestamp(max(used_s, default=revision.last_modified), UTC),
    )
