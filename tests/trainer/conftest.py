import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.trainer.harness import Trainer, trainer_at

_numbers = itertools.count(1)


@pytest_asyncio.fixture(loop_scope="module")
async def trainer(tmp_path: Path) -> AsyncIterator[Trainer]:
    """A trainer of the test's own, beside a FakeNode: for tests that kill, or look at everything."""
    async with trainer_at(tmp_path) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trainer]:
    """A trainer for all tests of a module: each looks at its own run only."""
    async with trainer_at(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture
def name() -> str:
    """The name of a run that no other test has."""
    return f"runs/job{next(_numbers)}-1"
