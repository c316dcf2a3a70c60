"""What callers do with data sets once they exist."""

from datetime import datetime, timedelta

from gateway.datasets.dataset import Dataset
from gateway.jobs.job import now
from gateway.ledger import blobs
from gateway.ledger import datasets as ledger_datasets
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.jobs import live_user_of
from gateway.scope import enter, see
from services.common.errors import InUse, NotFound
from services.common.names import parse_dataset
from services.common.pages import decode_token, encode_token, page_size


class Datasets:
    """The data sets that the caller of the call being served may see."""

    def __init__(self, ledger: Ledger, sweep_delay_s: float) -> None:
        self._ledger = ledger
        self._delay = timedelta(seconds=sweep_delay_s)

    async def get(self, name: str) -> Dataset:
        """Return a data set. Raises NotFound."""
        return await self._ledger.read(lambda tx: _find(tx, name))

    async def page(self, project: str, size: int, token: str) -> tuple[list[Dataset], str]:
        """Return a page of a project's data sets, newest first, and the next page's token."""
        enter(project)
        scope, limit = f"datasets {project}", page_size(size)
        position = decode_token(token, {"time": str, "id": str}, scope) if token else None
        after = (datetime.fromisoformat(position["time"]), position["id"]) if position else None
        found = await self._ledger.read(
            lambda tx: ledger_datasets.list_datasets(tx, project, after, limit + 1)
        )
        if len(found) <= limit:
            return found, ""
        last = found[limit - 1]
        return found[:limit], encode_token({"time": last.create_time.isoformat(), "id": last.id}, scope)

    async def delete(self, name: str) -> None:
        """Remove a data set. Raises NotFound, and InUse while a job that is not final names it."""

        async def work(tx: Transaction) -> None:
            dataset = await _find(tx, name)
            user = await live_user_of(tx, dataset=dataset.name)
            if user is not None:
                raise InUse(name, user.name)
            await ledger_datasets.delete_dataset(tx, dataset.project, dataset.id)
            scope = blobs.dataset_scope(dataset.project, dataset.id)
            await blobs.let_go(tx, now() + self._delay, scope=scope)

        await self._ledger.decide(work)


async def _find(tx: Transaction, name: str) -> Dataset:
    project, dataset_id = parse_dataset(name)
    see(project, name)
    dataset = await ledger_datasets.get_dataset(tx, project, dataset_id)
    if dataset is None:
        raise NotFound(name)
    return dataset
