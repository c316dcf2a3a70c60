"""The artifact of another job, in the content-addressed store."""

from services.common.errors import DigestMismatch, InvalidModel, NotFound
from services.common.specs import FileTree, WeightFile
from services.common.store import BlobStore
from services.hardware.estimate.sources.safety import refuse_unsafe_files
from services.hardware.estimate.sources.source import ADAPTER, CONFIG, PROCESSORS, Source, parse_object


def read_artifact(job: str, tree: FileTree | None, store: BlobStore) -> Source:
    """Return the model that `job` made.

    Raises:
        InvalidModel: the job has no artifact, its blobs are gone, or it holds no whole model.
    """
    if tree is None:
        raise InvalidModel(job, "the job has no artifact yet: wait until it has succeeded")
    files = {entry.path: entry for entry in tree.files}
    if CONFIG not in files:
        what = "an adapter without its base" if ADAPTER in files else f"no {CONFIG}"
        raise InvalidModel(job, f"its artifact holds {what}: name a job that made a whole model")
    # Deeper down lies the adapter, which was merged into these.
    weights = [entry for path, entry in files.items() if "/" not in path and path.endswith(".safetensors")]
    weights = [entry for entry in weights if not entry.path.startswith("adapter_")]
    refuse_unsafe_files(job, (entry.path for entry in weights))
    processor = next((files[name] for name in PROCESSORS if name in files), None)
    return Source(
        name=job,
        config=parse_object(job, CONFIG, _read(job, store, files[CONFIG].digest)),
        weight_files=tuple(
            WeightFile(path=e.path, size_bytes=e.size_bytes, sha256=e.digest.removeprefix("sha256:"))
            for e in weights
        ),
        artifact_digest=tree.digest,
        processor_json="" if processor is None else _read(job, store, processor.digest).decode(),
    )


def _read(job: str, store: BlobStore, digest: str) -> bytes:
    try:
        return store.read_bytes(digest)
    except (NotFound, DigestMismatch, OSError) as error:
        raise InvalidModel(job, f"its artifact cannot be read from the store: {error}") from None
