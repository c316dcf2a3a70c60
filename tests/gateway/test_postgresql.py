"""The ledger in PostgreSQL: what two replicas promise on SQLite, they promise there."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway.postgres import Postgres
from tests.gateway.rig import Rig
from tests.gateway.test_crashes import (  # noqa: F401 - collected here again, with this module's rig
    test_killed_between_reserving_and_starting_there_is_one_run,
)
from tests.gateway.test_replicas import (  # noqa: F401
    second,
    test_a_watch_at_either_sees_what_the_other_dispatches,
    test_an_upload_goes_on_at_the_other,
    test_creates_at_both_with_one_request_id_make_one_job,
    test_one_of_two_dispatches,
    test_the_other_takes_over_from_one_that_was_killed,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def rig_on_postgresql(
    postgresql: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("gateway"), postgresql.new_database())
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()
    assert not rig.defects()


@pytest_asyncio.fixture(loop_scope="package")
async def rig(rig_on_postgresql: Rig) -> AsyncIterator[Rig]:
    """A gateway whose ledger is in PostgreSQL, without live jobs and without nodes."""
    yield rig_on_postgresql
    await rig_on_postgresql.reset()
