from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.gateway.postgres import Postgres, postgres, programs
from tests.gateway.rig import Rig


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """A real server, where PostgreSQL is installed."""
    bin_dir = programs()
    if bin_dir is None:
        pytest.skip("PostgreSQL's server (initdb, pg_ctl) is not installed on this machine")
    with postgres(bin_dir) as server:
        yield server


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("gateway"))
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()
    assert not rig.defects()


@pytest_asyncio.fixture(loop_scope="package")
async def rig(shared_rig: Rig) -> AsyncIterator[Rig]:
    """A gateway without live jobs and without nodes."""
    yield shared_rig
    await shared_rig.reset()
