"""Training steps on fake tensors: a model is built and trained, and not a byte of it is ever allocated."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.initialization import no_init_weights

from services.trainer.recipes import TensorShape
from services.trainer.recipes.trainer import RecipeTrainer


class _Constants(TorchDispatchMode):
    """Answers with a constant where Python asks a fake tensor for its value."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].dtype.is_floating_point else 1
        if func is torch.ops.aten.nonzero.default:
            # The largest answer: every element counts.
            return args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
        return func(*args, **(kwargs or {}))


def _places(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Return a mask as the places where it is true: as many as it has, which is the largest answer."""
    if index is None or index.dtype is not torch.bool:
        return [index]
    return [index.new_zeros((index.numel(),), dtype=torch.int64) for _ in range(index.ndim)]


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Let everything inside happen on fake tensors."""
    # Module.to would swap fake parameters, which PEFT's weak references to them do not survive; and truncated
    # normals draw until a value fits, which a constant never does.
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        _Constants(),
        no_init_weights(),
        mock.patch.object(torch.nn.Module, "to", lambda self, *args, **kwargs: self),
    ):
        yield


def take_two_steps(build: Callable[[], RecipeTrainer], batch: Mapping[str, TensorShape]) -> RecipeTrainer:
    """Build a trainer and take two steps: forward, backward, clip, optimiser."""
    with fake_tensors():
        trainer = build()
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        inputs = {
            name: torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype))
            for name, tensor in batch.items()
        }
        for _ in range(2):
            trainer.training_step(trainer.network, dict(inputs))
            torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), trainer.args.max_grad_norm)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
    return trainer
