"""What is known of a model before transformers sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common.specs import WeightFile
from services.hardware.estimate.sources.processor import Processor

CONFIG = "config.json"
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
    processor: Processor = field(default_factory=Processor)

    @property
    def pretrained(self) -> bool:
        """Whether there are weights."""
        return bool(self.weight_files)
