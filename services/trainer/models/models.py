"""The models of the hub that this node has."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from pydantic import TypeAdapter

from services.common.errors import InUse, InvalidRequest, NotFound
from services.common.names import parse_project
from services.trainer.models.process import ask
from services.trainer.models.records import CachedModel, PullProgress, Removal
from services.trainer.runs.registry import Runs

_MODEL = TypeAdapter(CachedModel)


class Models:
    """Fills, lists and empties the cache that runs on this node share."""

    def __init__(self, runs: Runs, secrets_dir: Path) -> None:
        self._runs = runs
        self._secrets_dir = secrets_dir
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pulls: Counter[str] = Counter()

    async def pull(
        self, repository: str, revision: str, project: str, token_secret: str
    ) -> AsyncGenerator[PullProgress | CachedModel]:
        """Bring a model here: yields how far it is, and the model at the end. Closing it stops the download.

        Raises:
            InvalidModel, InsufficientDisk, PeerUnavailable: as `pulling.pull`.
            InvalidRequest: the project has no such secret.
        """
        token = await asyncio.to_thread(self._token, project, token_secret) if token_secret else None
        question = {"do": "pull", "repository": repository, "revision": revision, "token": token}
        # Before the hub can fail it: a call that has begun to answer is not tried again on the way.
        yield PullProgress()
        self._pulls[repository] += 1
        try:
            async with self._lock(repository), aclosing(ask(question)) as answers:
                async for answer in answers:
                    if "progress" in answer:
                        yield PullProgress(**answer["progress"])
                    else:
                        yield await self._with_runs(_MODEL.validate_python(answer["model"]))
        finally:
            self._pulls[repository] -= 1

    async def list(self) -> list[CachedModel]:
        """Return what is here, with the runs that use it."""
        users = await self._users()
        found = [_MODEL.validate_python(answer["model"]) for answer in await _all({"do": "list"})]
        return [replace(model, runs=users.get((model.repository, model.revision), ())) for model in found]

    async def delete(self, repository: str, revision: str) -> Removal:
        """Remove the revisions whose commit begins with `revision`.

        Raises:
            NotFound: none of them is here.
            InUse: a run that is not over trains on one of them, or the model is being downloaded.
        """
        if self._pulls[repository]:
            raise InUse(repository, "a download that is under way")
        async with self._lock(repository):
            here = [model for model in await self.list() if model.repository == repository]
            chosen = [model for model in here if model.revision.startswith(revision)]
            if not chosen:
                raise NotFound(f"{repository}@{revision}" if revision else repository)
            for model in chosen:
                if model.runs:
                    raise InUse(f"{repository}@{model.revision}", ", ".join(model.runs))
            # A run that starts now imports for seconds before it looks for its weights: it downloads them.
            commits = [model.revision for model in chosen]
            answers = await _all({"do": "remove", "repository": repository, "revisions": commits})
        return Removal(models=tuple(chosen), freed_bytes=answers[0]["freed_bytes"])

    async def _with_runs(self, model: CachedModel) -> CachedModel:
        users = await self._users()
        return replace(model, runs=users.get((model.repository, model.revision), ()))

    async def _users(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        """Return the runs that are not over, by the repository and the commit that they train on."""
        found: defaultdict[tuple[str, str], tuple[str, ...]] = defaultdict(tuple)
        for directory in self._runs.living():
            spec = await asyncio.to_thread(directory.spec)
            if spec.spec.model.hub is not None:
                record = await asyncio.to_thread(directory.record)
                found[spec.spec.model.hub, spec.model.revision] += (record.run,)
        return found

    def _token(self, project: str, secret: str) -> str:
        directory = self._secrets_dir / parse_project(f"projects/{project}", "project")
        path = directory / secret
        # A name is one component: nothing beside the project's directory is read.
        if path.parent == directory and secret not in (".", ".."):
            try:
                return path.read_text().strip()
            except OSError:
                pass
        raise InvalidRequest({"token_secret": f"project {project} has no secret {secret} on this node"})

    def _lock(self, repository: str) -> asyncio.Lock:
        return self._locks.setdefault(repository, asyncio.Lock())


async def _all(question: dict[str, Any]) -> list[dict[str, Any]]:
    async with aclosing(ask(question)) as answers:
        return [answer async for answer in answers]
