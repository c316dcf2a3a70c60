from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.ledger.engine import Ledger
from tests.gateway.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; every promise of the ledger holds in both kinds."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgresql")
        return server.new_database()
    return f"sqlite+aiosqlite:///{tmp_path}/ledger.db"


@pytest_asyncio.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(url)
    yield opened
    await opened.close()
