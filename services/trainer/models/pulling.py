"""Bringing a model of the hub into the cache: pinned to its commit, only what is safe to read, and resumed.

It takes the very files that a run would look for, and nothing else of the repository.
"""

import errno
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from services.common.errors import InsufficientDisk, InvalidModel, PeerUnavailable, ServiceError
from services.trainer.hubcache import counting_bar, free_bytes, is_cached
from services.trainer.models.meter import HubFile, Meter, Tell
from services.trainer.models.partial import Partial

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_HASH = re.compile(r"[0-9a-f]{40,64}")
_WEIGHTS = ".safetensors"
# Configurations, vocabularies and templates: data, whatever reads them.
_BESIDE = (".json", ".jinja", ".model", ".spm", ".txt")
_TEMPLATES = "additional_chat_templates/"


def pull(repository: str, revision: str, token: str | None, tell: Tell) -> str:
    """Bring a model at a branch, tag or commit (empty: `main`) into the cache and return its commit.

    Raises:
        InvalidModel: there is none, it may not be read, or its files are not safe.
        InsufficientDisk: the disk has no room for what is missing.
        PeerUnavailable: the hub cannot be reached, or the connection broke off.
    """
    try:
        info = HfApi(token=token or False).model_info(
            repository, revision=revision or "main", files_metadata=True, timeout=_TIMEOUT_S
        )
        files = wanted(repository, map(_file, info.siblings or []))
        _Pull(repository, str(info.sha), files, token, tell).carry_out()
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError) as error:
        # The system's own errors are about this machine, and a defect, unless the disk filled up meanwhile.
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOSPC):
            raise
        raise _refusal(repository, revision, error) from error
    return str(info.sha)


def wanted(repository: str, files: Iterable[HubFile]) -> list[HubFile]:
    """Return the files to fetch, small ones first. Raises InvalidModel where they make no safe model."""
    found = sorted(files, key=lambda file: (file.name.endswith(_WEIGHTS), file.name))
    script = next((file.name for file in found if file.name.endswith(".py")), None)
    if script is not None:
        raise InvalidModel(repository, f"{script} is code of the model's author, which is never run")
    chosen = [file for file in found if _is_wanted(file.name)]
    names = {file.name for file in chosen}
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise InvalidModel(
            repository, "it has no weights in safetensors: others, such as pickles, can run code"
        )
    if "config.json" not in names:
        raise InvalidModel(repository, "the repository has no config.json")
    return chosen


def _is_wanted(name: str) -> bool:
    if name.startswith(_TEMPLATES):
        return name.endswith(".jinja")
    # What lies deeper is another variant of the model, and an adapter is no model.
    return "/" not in name and not name.startswith("adapter_") and name.endswith((_WEIGHTS, *_BESIDE))


def _file(sibling: Any) -> HubFile:
    sha256 = "" if sibling.lfs is None else _hash(sibling.lfs.sha256)
    return HubFile(
        name=sibling.rfilename,
        size_bytes=sibling.size or 0,
        blob=sha256 or _hash(sibling.blob_id),
        sha256=sha256,
    )


def _hash(said: object) -> str:
    # It becomes a file's name: what the hub says is not believed to be harmless.
    return said if isinstance(said, str) and _HASH.fullmatch(said) else ""


class _Pull:
    """One download, file by file."""

    def __init__(
        self, repository: str, commit: str, files: list[HubFile], token: str | None, tell: Tell
    ) -> None:
        self._repository = repository
        self._commit = commit
        self._files = files
        # False, not None: None would send whatever token lies about on this machine.
        self._token: str | bool = token or False
        folder = repo_folder_name(repo_id=repository, repo_type="model")
        self._blobs = Path(constants.HF_HUB_CACHE) / folder / "blobs"
        self._meter = Meter(tell, commit, sum(file.size_bytes for file in files))

    def carry_out(self) -> None:
        """Fetch what is missing."""
        self._refuse_full_disk()
        for file in self._files:
            with self._meter.of(file):
                if not is_cached(self._repository, file.name, self._commit):
                    self._fetch(file)

    def _refuse_full_disk(self) -> None:
        needed_bytes = sum(self._missing_bytes(file) for file in self._files)
        free = free_bytes()
        if needed_bytes > free:
            raise InsufficientDisk(self._repository, needed_bytes, free)

    def _missing_bytes(self, file: HubFile) -> int:
        # Another revision may have brought the same bytes.
        if is_cached(self._repository, file.name, self._commit) or self._has_blob(file):
            return 0
        return max(0, file.size_bytes - self._partial(file).size_bytes)

    def _has_blob(self, file: HubFile) -> bool:
        return bool(file.blob) and (self._blobs / file.blob).exists()

    def _fetch(self, file: HubFile) -> None:
        if file.sha256:
            self._partial(file).complete(self._token, self._meter.add)
        # Finds the bytes where they are already, and gives them their name in the snapshot.
        hf_hub_download(
            self._repository,
            file.name,
            revision=self._commit,
            token=self._token,
            tqdm_class=counting_bar(self._meter.add),
        )

    def _partial(self, file: HubFile) -> Partial:
        return Partial(self._repository, file.name, self._commit, self._blobs, file.sha256)


def _refusal(repository: str, revision: str, error: Exception) -> ServiceError:
    match error:
        case GatedRepoError():
            return InvalidModel(repository, "its authors ask for consent: name a secret with a token")
        case RevisionNotFoundError():
            return InvalidModel(repository, f"the repository has no revision {revision!r}")
        case RepositoryNotFoundError() | HFValidationError():
            detail = "the hub has no such repository, or only for those with a token: name one as a secret"
            return InvalidModel(repository, detail)
        case OSError(errno=errno.ENOSPC):
            # Something else filled it meanwhile: how much is missing is not known any more.
            return InsufficientDisk(repository, 0, free_bytes())
    log.warning("the hub failed", extra={"repository": repository, "error": str(error)})
    return PeerUnavailable(f"the model hub at {constants.ENDPOINT}")
