"""The cache of the hub's library, which runs and downloads ahead of them share: what is here, and what fits.

Where it is, the library's own variables say (HF_HUB_CACHE, HF_HOME); child processes inherit them.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from tqdm.auto import tqdm


def free_bytes() -> int:
    """Return how much room is left on the cache's disk."""
    cache = Path(constants.HF_HUB_CACHE)
    # It need not exist yet; the disk that it will be made on does.
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def is_cached(repository: str, name: str, commit: str) -> bool:
    """Say whether a file of a repository is here."""
    return isinstance(try_to_load_from_cache(repository, name, revision=commit), str)


def missing_bytes(repository: str, commit: str, sizes: Iterable[tuple[str, int]]) -> int:
    """Return how many bytes of these files, by name and size, are not here."""
    return sum(size for name, size in sizes if not is_cached(repository, name, commit))


def counting_bar(add: Callable[[int], None]) -> type[Any]:
    """Return a class of progress bars for the hub's library that draw nothing and tell `add` of bytes."""

    class Bar(tqdm):  # type: ignore[misc]
        """Counts in silence."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # The hub's client names its bars, which tqdm itself does not know.
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            """Count bytes that are on the disk."""
            add(int(n or 0))

        # A bar without the next two gets a twin for what passes the network: each byte would count twice.
        def update_transfer(self, n: float | None = 1) -> None:
            """Pass over bytes that are on their way."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            """Say nothing of their speed."""

    return Bar
