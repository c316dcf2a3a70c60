"""What a recipe is made of, and what it is told about hardware and weights. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.common.specs import DeviceKind, TrainingSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from services.trainer.recipes.trainer import RecipeTrainer


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What decides between kernels and number formats."""

    device: DeviceKind = DeviceKind.CPU
    """What trains: the CPU or a GPU."""
    compute_capability: tuple[int, int] | None = None
    """The GPU's, such as (9, 0)."""
    flash_attention: bool = False
    """Whether the package flash-attn can be imported."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights that somebody else has read."""

    tensors: Mapping[str, "torch.Tensor"]
    """By the names of the file: the hub's old ones or the model's own."""
    labels: tuple[str, ...]
    """What the outputs of their head mean. A head that means something else is not taken over."""
    complete: bool
    """Whether nothing may be left over: true of this platform's own artifacts, while a hub's file may hold
    more than a classifier takes, such as a decoder."""


@dataclass(frozen=True)
class TensorShape:
    """Shape and number format of one tensor of a batch."""

    shape: tuple[int, ...]
    dtype: str


class Build(Protocol):
    """Builds the Trainer of a resolved spec; see a recipe's `build`."""

    def __call__(
        self,
        spec: TrainingSpec,
        config: "PreTrainedConfig",
        weights: Weights | None = None,
        *,
        hardware: Hardware = ...,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> "RecipeTrainer":
        """Return a Trainer without data. Raises InvalidSpec, InvalidModel or NotAvailable.

        `tokenizer` has padding and end tokens. Absent, which is enough where nothing but shapes matters, a
        stand-in of two tokens is used. Recipes of images need none.
        """
        ...


class WorstBatch(Protocol):
    """Tells the shapes of the largest batch that training meets."""

    def __call__(self, spec: TrainingSpec, config: "PreTrainedConfig") -> Mapping[str, TensorShape]:
        """Return the tensors of a batch by name. `config` is the model's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one task is trained."""

    build: Build
    worst_batch: WorstBatch
