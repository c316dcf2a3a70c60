"""What was probably meant by a key that does not exist."""

import difflib
import re
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor

_FREE = "google.protobuf."


def close(word: str, known: list[str], cutoff: float = 0.6) -> list[str]:
    """Return the known words nearest to `word`, best first."""
    found = difflib.get_close_matches(word, known, n=2, cutoff=cutoff)
    # `batch_size` is far from `per_device_train_batch_size` by letters, and yet what was meant.
    return found or [name for name in known if len(word) > 3 and (word in name or name in word)][:2]


def unknown_key(root: Descriptor, group: Descriptor, path: str, key: str) -> str:
    """Return the message for a `key` that the group at `path` does not have: what was probably meant."""
    word = _snake(key)
    elsewhere = dict(_paths(root))
    here = {f"{path}{field.name}": field.name for field in group.fields}
    # The same name in another group, a near one in this group, a near one elsewhere: in this order.
    same = [full for full, name in elsewhere.items() if name == word]
    near = _paths_of(close(word, list(here.values())), here)
    far = _paths_of(close(word, list(elsewhere.values()), cutoff=0.75), elsewhere)
    meant = same or near or far
    if meant:
        return f"unknown key: did you mean {' or '.join(meant[:2])}?"
    return f"unknown key: known here are {', '.join(sorted(here.values()))}"


def _paths_of(names: list[str], paths: dict[str, str]) -> list[str]:
    return [full for wanted in names for full, name in paths.items() if name == wanted]


def _paths(group: Descriptor, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and name of every key of a spec."""
    for field in group.fields:
        yield f"{path}{field.name}", field.name
        below = field.message_type
        if below is not None and not below.full_name.startswith(_FREE) and not below.GetOptions().map_entry:
            yield from _paths(below, f"{path}{field.name}.")


def _snake(key: str) -> str:
    """Return `numTrainEpochs` and `num-train-epochs` as `num_train_epochs`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).replace("-", "_").lower()
