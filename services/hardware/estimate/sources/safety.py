"""What is never read: code of strangers, and pickle, which is code of strangers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from services.common.errors import InvalidModel

# Keys by which a configuration makes a library fetch and run code, or fetch weights behind the spec's back.
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_FETCH_KEYS = frozenset(
    {
        *("use_pretrained_backbone", "_attn_implementation", "attn_implementation"),
        *("_experts_implementation", "experts_implementation"),
    }
)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz")


def refuse_code(name: str, config: Mapping[str, Any], where: str = "config") -> None:
    """Pass a configuration that runs nothing, however deep one looks. Raises InvalidModel."""
    for path, key, value in _walk(config, where):
        if key in _CODE_KEYS and value:
            detail = f"{path} asks to run code of the model's author, which is never done"
            raise InvalidModel(name, f"{detail}: choose a model that transformers knows by itself")
        if key in _FETCH_KEYS and _fetches(value):
            raise InvalidModel(name, f"{path} fetches what the spec does not name: leave it out")


def refuse_unsafe_files(name: str, files: Iterable[str]) -> None:
    """Pass a model's list of files where it has safetensors and no Python. Raises InvalidModel."""
    names = sorted(files)
    script = next((file for file in names if file.endswith(".py")), None)
    if script is not None:
        raise InvalidModel(name, f"{script} is code of the model's author, which is never run: remove it")
    pickled = next((file for file in names if file.endswith(_PICKLES)), None)
    if not any(file.endswith(".safetensors") for file in names):
        found = "it has no weights" if pickled is None else f"{pickled} is pickle, which can run code"
        raise InvalidModel(name, f"{found}: give it weights in safetensors")


def _fetches(value: Any) -> bool:
    """Whether a value names something of the hub; a model of several parts has a table with one for each."""
    if isinstance(value, Mapping):
        return any(_fetches(part) for part in value.values())
    # A name with a slash is a kernel of the hub, compiled by whoever put it there.
    return value is True or (isinstance(value, str) and "/" in value)


def _walk(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}", str(key), value
            yield from _walk(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _walk(value, f"{path}[{index}]")
