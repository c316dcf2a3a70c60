"""Tries an image classifier's artifact on a few pictures. Models never load in a service: a child does it."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import BY_REASON, Code, DeadlineExceeded, RemoteError
from services.trainer.cache import NodeCache
from services.trainer.environment import inherited_environment

log = logging.getLogger(__name__)

_LABELS = 3


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What one picture shows, most probable first."""

    scores: tuple[LabelScore, ...]


class Classifier:
    """Classifies the pictures of one call at a time: each loads a model."""

    def __init__(self, cache: NodeCache, command: Sequence[str], timeout_s: float) -> None:
        self._cache = cache
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()

    async def classify(self, digest: str, images: Sequence[bytes], top_k: int) -> tuple[Classification, ...]:
        """Return what each picture shows, `top_k` labels of it; 0 stands for 3.

        Raises:
            NotFound, DigestMismatch: the store does not have the artifact, or not whole.
            ServiceError: the artifact is no classifier, or a picture cannot be read.
            DeadlineExceeded: it takes longer than the setting allows.
        """
        async with self._turn, self._cache.pinned([digest]):
            artifact = await self._cache.tree(digest)
            with tempfile.TemporaryDirectory(prefix="weighbridge-images-") as directory:
                paths = await asyncio.to_thread(_write, images, Path(directory))
                question = {"artifact_dir": str(artifact), "images": paths, "top_k": top_k or _LABELS}
                return _read(await self._ask(question))

    async def _ask(self, question: dict[str, Any]) -> Any:
        child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**inherited_environment(), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            # A group of its own, so that it can be ended with all it has started.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                output, errors = await child.communicate(json.dumps(question).encode())
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            # Also when the caller leaves: nothing goes on computing for nobody.
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
        try:
            return json.loads(output)
        except ValueError:
            log.error("the classifier died", extra={"status": child.returncode, "stderr": errors[-2000:]})
            raise


def _write(images: Sequence[bytes], directory: Path) -> list[str]:
    paths = [directory / f"{number:04d}" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    return [str(path) for path in paths]


def _read(answer: Any) -> tuple[Classification, ...]:
    if isinstance(answer, dict):
        error = answer["error"]
        # The child's reasons are those of the contract; its messages and keys pass through as they are.
        known = BY_REASON.get(error["reason"])
        code = Code.INTERNAL if known is None else known.code
        raise RemoteError(error["reason"], code, error["message"], error.get("metadata", {}))
    return tuple(Classification(scores=tuple(LabelScore(**score) for score in scores)) for scores in answer)
