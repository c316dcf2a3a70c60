"""The artifact of another job, in the content-addressed store."""

from services.common.errors import DigestMismatch, InvalidModel, NotFound
from services.common.specs import FileEntry, FileTree, Task, WeightFile
from services.common.store import BlobStore
from services.hardware.estimate.sources.processor import make_processor, parse_object, processor_names
from services.hardware.estimate.sources.safety import refuse_unsafe_files
from services.hardware.estimate.sources.source import ADAPTER, CONFIG, Source


def read_artifact(job: str, tree: FileTree | None, store: BlobStore, task: Task) -> Source:
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

    def read(name: str) -> bytes:
        return _read(job, store, files[name].digest)

    processor = [_file(files[name]) for name in processor_names(files, task)]
    return Source(
        name=job,
        config=parse_object(job, CONFIG, read(CONFIG)),
        weight_files=tuple(_file(entry) for entry in weights),
        artifact_digest=tree.digest,
        processor=make_processor(job, processor, read),
    )


def _file(entry: FileEntry) -> WeightFile:
    return WeightFile(
        path=entry.path, size_bytes=entry.size_bytes, sha256=entry.digest.removeprefix("sha256:")
    )


def _read(job: str, store: BlobStore, digest: str) -> bytes:
    try:
        return store.read_bytes(digest)
    except (NotFound, DigestMismatch, OSError) as error:
        raise InvalidModel(job, f"its artifact cannot be read from the store: {error}") from None
