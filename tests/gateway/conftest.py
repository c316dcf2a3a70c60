from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway.rig import Rig


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
