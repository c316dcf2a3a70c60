"""What turns data into a model's inputs: the files of its tokenizer or of its image processor."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidModel
from services.common.specs import Task, WeightFile
from services.hardware.estimate.sources.safety import refuse_code

TOKENIZER_CONFIG = "tokenizer_config.json"
IMAGE_CONFIG = "preprocessor_config.json"
_TEMPLATE = "chat_template.jinja"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
# Any of these is a vocabulary: without one the rest make no tokenizer.
_TOKENIZERS = frozenset(
    {
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "vocab.json",
        "vocab.txt",
        "sentencepiece.bpe.model",
    }
)
_TEXT = frozenset(
    {
        *_TOKENIZERS,
        *("merges.txt", "added_tokens.json", "special_tokens_map.json", TOKENIZER_CONFIG),
        *(_TEMPLATE, "generation_config.json"),
    }
)
_IMAGES = frozenset({IMAGE_CONFIG, "processor_config.json"})


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A tokenizer or an image processor, as far as a spec needs to know it."""

    files: tuple[WeightFile, ...] = ()
    settings_json: str = ""
    """What stands in `tokenizer_config.json` or `preprocessor_config.json`."""
    chat_template: str = ""
    """The tokenizer's own template in Jinja. Empty: it has none."""
    token_count: int = 0
    """The ids that the tokenizer may give, as far as its files say so. 0: they do not."""

    @property
    def tokenizes(self) -> bool:
        """Whether there is a vocabulary among the files."""
        return any(file.path in _TOKENIZERS or file.path.endswith(".gguf") for file in self.files)


def processor_names(names: Iterable[str], task: Task) -> list[str]:
    """Return the files that the processor of a task is made of, sorted."""
    wanted = _IMAGES if task is Task.IMAGE_CLASSIFICATION else _TEXT
    return sorted(wanted & set(names))


def make_processor(
    model: str, files: Iterable[WeightFile], read: Callable[[str], bytes], *, read_vocabulary: bool = True
) -> Processor:
    """Return the processor of files beside a model's `config.json`, each of which `read` reads.

    A vocabulary may take megabytes, so it is left unread where `read_vocabulary` is false.

    Raises:
        InvalidModel: a file is not what its name says, or asks to run code.
    """
    files = tuple(files)
    names = {file.path for file in files}
    settings: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        if name.endswith("_config.json"):
            settings[name] = parse_object(model, name, read(name))
            refuse_code(model, settings[name], where=name)
    main = settings.get(TOKENIZER_CONFIG) or settings.get(IMAGE_CONFIG) or {}
    template = read(_TEMPLATE).decode(errors="replace") if _TEMPLATE in names else _template(main)
    counts = [_highest(_ids_of_added(main))]
    if read_vocabulary:
        counts += [
            _highest(_ids(parse_object(model, name, read(name)))) for name in _VOCABULARIES if name in names
        ]
    return Processor(
        files=files,
        settings_json=json.dumps(main, sort_keys=True) if main else "",
        chat_template=template,
        token_count=max(counts),
    )


def parse_object(name: str, file: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object in a model's file. Raises InvalidModel where it holds none."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(name, f"{file} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidModel(name, f"{file} holds no JSON object")
    return parsed


def _template(settings: Mapping[str, Any]) -> str:
    """Return the template in a tokenizer's settings; of several, the one that the worker takes."""
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, Mapping)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else ""


def _ids(vocabulary: Mapping[str, Any]) -> Iterable[Any]:
    """Return the ids in a vocabulary file: of `tokenizer.json`, or a plain table of tokens and ids."""
    model = vocabulary.get("model")
    if not isinstance(model, Mapping):
        return vocabulary.values()
    table = model.get("vocab")
    ids: list[Any] = list(table.values()) if isinstance(table, Mapping) else []
    # Unigram models list their tokens in the order of their ids.
    ids += [len(table) - 1] if isinstance(table, list) else []
    added = vocabulary.get("added_tokens") or ()
    return ids + [entry.get("id") for entry in added if isinstance(entry, Mapping)]


def _ids_of_added(settings: Mapping[str, Any]) -> Iterable[Any]:
    added = settings.get("added_tokens_decoder")
    return [int(key) for key in added if str(key).isdecimal()] if isinstance(added, Mapping) else ()


def _highest(ids: Iterable[Any]) -> int:
    return 1 + max((number for number in ids if isinstance(number, int)), default=-1)
