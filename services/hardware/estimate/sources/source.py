"""What is known of a model before transformers sees it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidModel
from services.common.specs import WeightFile

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "tokenizer_config.json")
ADAPTER = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model's configuration and where its weights are. No weight files: it is initialised at random."""

    name: str
    """As the spec names it, for messages."""
    config: Mapping[str, Any]
    weight_files: tuple[WeightFile, ...] = ()
    location: str = ""
    revision: str = ""
    artifact_digest: str = ""
    processor_json: str = ""

    @property
    def pretrained(self) -> bool:
        """Whether there are weights."""
        return bool(self.weight_files)


def parse_object(name: str, file: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object in a model's file. Raises InvalidModel where it holds none."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(name, f"{file} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidModel(name, f"{file} holds no JSON object")
    return parsed
