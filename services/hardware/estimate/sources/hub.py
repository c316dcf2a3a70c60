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
from services.common.specs import WeightFile
from services.hardware.estimate.sources.safety import refuse_unsafe_files
from services.hardware.estimate.sources.source import CONFIG, PROCESSORS, Source, parse_object

# The library itself would try for most of a minute.
_TIMEOUT_S = 5.0
_UNREACHABLE = (httpx2.HTTPError, HfHubHTTPError, OfflineModeIsEnabled)


def read_hub(repository: str, revision: str, token: str | None) -> Source:
    """Return the model at a branch, tag or commit (empty: `main`), with the commit that it is today.

    Raises:
        InvalidModel: there is none, it may not be read, the hub cannot be reached, or its files are not safe.
    """
    info = _info(repository, revision or "main", token)
    commit = str(info.sha)
    files: Sequence[Any] = info.siblings or []
    names = [file.rfilename for file in files]
    if CONFIG not in names:
        raise InvalidModel(repository, f"the repository has no {CONFIG}")
    refuse_unsafe_files(repository, names)
    processor = next((name for name in PROCESSORS if name in names), None)
    return Source(
        name=repository,
        config=parse_object(repository, CONFIG, _fetch(repository, CONFIG, commit, token)),
        weight_files=tuple(_weight(file) for file in files if _is_weight(file.rfilename)),
        location=repository,
        revision=commit,
        processor_json="" if processor is None else _fetch(repository, processor, commit, token).decode(),
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


def _weight(file: Any) -> WeightFile:
    return WeightFile(
        path=file.rfilename, size_bytes=file.size or 0, sha256="" if file.lfs is None else file.lfs.sha256
    )
