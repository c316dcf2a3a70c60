"""A repository of the model hub, pinned to a commit."""

from collections.abc import Sequence
from typing import Any

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from services.common.errors import InvalidModel
from services.common.specs import Task, WeightFile
from services.hardware.estimate.sources.processor import make_processor, parse_object, processor_names
from services.hardware.estimate.sources.safety import refuse_unsafe_files
from services.hardware.estimate.sources.source import CONFIG, Source

# The library itself would try for most of a minute.
_TIMEOUT_S = 5.0
_UNREACHABLE = (httpx2.HTTPError, HfHubHTTPError, OfflineModeIsEnabled)


def read_hub(repository: str, revision: str, token: str | None, task: Task) -> Source:
    """Return the model at a branch, tag or commit (empty: `main`), with the commit that it is today.

    Raises:
        InvalidModel: there is none, it may not be read, the hub cannot be reached, or its files are not safe.
    """
    info = _info(repository, revision or "main", token)
    commit = str(info.sha)
    siblings: Sequence[Any] = info.siblings or []
    files = {file.rfilename: file for file in siblings}
    names = list(files)
    if CONFIG not in names:
        raise InvalidModel(repository, f"the repository has no {CONFIG}")
    refuse_unsafe_files(repository, names)

    def read(name: str) -> bytes:
        return _fetch(repository, name, commit, token)

    processor = [_file(files[name]) for name in processor_names(names, task)]
    return Source(
        name=repository,
        config=parse_object(repository, CONFIG, read(CONFIG)),
        weight_files=tuple(_file(file) for name, file in files.items() if _is_weight(name)),
        location=repository,
        revision=commit,
        # A vocabulary has up to 30 MB: its size is the worker's to check, who downloads it anyway.
        processor=make_processor(repository, processor, read, read_vocabulary=False),
    )


def _info(repository: str, revision: str, token: str | None) -> Any:
    try:
        # False, not None: None would send whatever token lies about on this machine.
        return HfApi(token=token or False).model_info(
            repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
        )
    except GatedRepoError:
        raise InvalidModel(repository, "its authors ask for consent: name a secret with a token") from None
    except RevisionNotFoundError:
        raise InvalidModel(repository, f"the repository has no revision {revision!r}") from None
    except (RepositoryNotFoundError, HFValidationError):
        detail = "the hub has no such repository, or only for those with a token: name one as a secret"
        raise InvalidModel(repository, detail) from None
    except _UNREACHABLE as error:
        raise _unreachable(repository, error) from None


def _fetch(repository: str, name: str, commit: str, token: str | None) -> bytes:
    url = hf_hub_url(repository, name, revision=commit)
    headers = build_hf_headers(token=token or False)
    try:
        response = get_session().get(url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True)
        hf_raise_for_status(response)
    except _UNREACHABLE as error:
        raise _unreachable(repository, error) from None
    return bytes(response.content)


def _unreachable(repository: str, error: Exception) -> InvalidModel:
    detail = f"the hub cannot be reached ({error}): use model.path, model.config or model.job, or try again"
    return InvalidModel(repository, detail)


def _is_weight(name: str) -> bool:
    return name.endswith(".safetensors") and "/" not in name and not name.startswith("adapter_")


def _file(file: Any) -> WeightFile:
    return WeightFile(
        path=file.rfilename, size_bytes=file.size or 0, sha256="" if file.lfs is None else file.lfs.sha256
    )
