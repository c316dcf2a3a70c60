import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.trainer.engines.dockerd import Dockerd, dockerd
from tests.trainer.harness import SCRIPTED, Trainer, trainer_at


@pytest.fixture(scope="module")
def daemon() -> Iterator[Dockerd]:
    with dockerd() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def contained(tmp_path: Path, daemon: Dockerd) -> AsyncIterator[Trainer]:
    """A trainer of the test's own whose workers are containers."""
    async with trainer_at(tmp_path, **variables(daemon)) as started:
        yield started
    daemon.clear()


def variables(daemon: Dockerd) -> dict[str, str]:
    """Return the environment of a trainer whose scripted workers are containers."""
    settings = daemon.settings(*SCRIPTED)
    return {
        f"WEIGHBRIDGE_{name.upper()}": value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in settings.items()
    }
