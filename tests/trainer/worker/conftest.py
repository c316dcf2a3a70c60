from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.worker.rundirs import write_zip
from tests.trainer.worker.warm import Warm, warm


@pytest.fixture(scope="session")
def workers() -> Iterator[Warm]:
    """Workers that need not import first."""
    with warm() as started:
        yield started


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set: 36 small pictures of three shapes."""
    return write_zip(tmp_path_factory.mktemp("data") / "shapes.zip")
