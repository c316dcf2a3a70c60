import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

# Imported here once, where what these libraries deprecate of each other is no failure of ours.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from services.common.store import BlobStore
    from services.hardware.estimate.sources.reading import Places


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "models").mkdir()
    return Places(BlobStore(f"file://{tmp_path}/store"), tmp_path / "models", tmp_path / "secrets")
