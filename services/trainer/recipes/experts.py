"""Experts in 4 bit: transformers keeps them as 3-D parameters, which bitsandbytes leaves in 16 bit.

A module of experts keeps its bytes packed and turns a few matrices at a time back into numbers, forwards and
once more backwards, where only the gradient of the inputs is computed: the weights are frozen. Nothing that
large is kept between the two. A LoRA adapter on the experts is computed beside them, at its low rank.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from services.common.errors import InvalidSpec
from services.trainer.recipes.packed import PackedStack
from services.trainer.recipes.streaming import ExpertBytes

STACKS = ("gate_up_proj", "down_proj")
"""The parameters of a module of experts, in the order in which they compute."""

_OTHER_LAYOUTS = ("has_bias", "is_transposed", "has_post_expert_norm")
_PER_PIECE_BYTES = 512 << 20
# From here on one grouped product is faster than a product for each expert.
_FEW = 8


@dataclass(frozen=True)
class Routing:
    """Which rows, sorted by expert, each expert computes: expert e those from `ends[e - 1]` to `ends[e]`."""

    ends: list[int]
    offsets: torch.Tensor
    """The same numbers on the device, as int32."""

    def start(self, expert: int) -> int:
        """The first row of an expert."""
        return self.ends[expert - 1] if expert else 0


Factors = tuple[torch.Tensor, torch.Tensor, float]
"""A low-rank change of a stack: (experts, rows, rank), (experts, rank, columns), and its scale."""


class PackedExperts(nn.Module):
    """The behaviour of experts whose weights are packed, over that of transformers' own class.

    The stacks are no parameters any more: nothing moves, saves or trains them. What asks for one by its name
    gets its shape, format and device, without a number in it.
    """

    layouts: Mapping[str, PackedStack]
    store: ExpertBytes
    device: torch.device
    factors: dict[str, Factors]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted sum of the experts chosen for each token, of the shape of `hidden_states`.

        Step by step what transformers computes with its grouped products. Shapes: (tokens, hidden),
        (tokens, k), (tokens, k).
        """
        top_k = top_k_index.size(-1)
        experts, order = torch.sort(top_k_index.reshape(-1))
        routing = _routing(experts, self.layouts[STACKS[0]].shape[0])
        inner = self._project("gate_up_proj", hidden_states[order // top_k], routing)
        inner = cast(Any, self)._apply_gate(inner)
        outer = self._project("down_proj", inner, routing)
        weighted = outer * top_k_weights.reshape(-1)[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.size(0), device=order.device)
        summed = weighted[back].view(-1, top_k, hidden_states.size(-1)).sum(dim=1)
        return summed.to(hidden_states.dtype)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Name what an adapter may be put on, which peft looks for here. No such parameter exists."""
        yield from super().named_parameters(prefix, recurse, remove_duplicate)
        for name in self.layouts:
            yield f"{prefix}.{name}" if prefix else name, cast(nn.Parameter, getattr(self, name))

    @property
    def gate_up_proj(self) -> torch.Tensor:
        """The shape, format and device of the first stack."""
        return self._outline("gate_up_proj")

    @property
    def down_proj(self) -> torch.Tensor:
        """The shape, format and device of the second stack."""
        return self._outline("down_proj")

    def _outline(self, name: str) -> torch.Tensor:
        layout = self.layouts[name]
        return torch.empty((), dtype=layout.dtype, device=self.device).expand(layout.shape)

    def _project(self, name: str, rows: torch.Tensor, routing: Routing) -> torch.Tensor:
        layout = self.layouts[name]
        rows = rows.to(layout.dtype)
        product: torch.Tensor = _PackedProduct.apply(rows, routing, layout, self.store, name)
        if name not in self.factors:
            return product
        left, right, scale = self.factors[name]
        # peft's views of its matrices interleave the experts, which no kernel takes.
        low = _grouped(rows, right.transpose(-2, -1).contiguous(), routing.offsets)
        return product + scale * _grouped(low, left.transpose(-2, -1).contiguous(), routing.offsets)


def is_experts(module: nn.Module) -> bool:
    """Whether a module's experts are stacked as this version can pack them."""
    stacked = all(
        isinstance(getattr(module, name, None), nn.Parameter) and getattr(module, name).ndim == 3
        for name in STACKS
    )
    return (
        stacked
        and bool(getattr(module, "has_gate", False))
        and not any(getattr(module, flag, True) for flag in _OTHER_LAYOUTS)
    )


def unknown_experts(model: PreTrainedModel) -> list[str]:
    """Return the names of stacked weights that this version cannot pack."""
    return [
        f"{name}.{parameter_name}" if name else parameter_name
        for name, module in model.named_modules()
        if not is_experts(module) and not isinstance(module, nn.Conv1d)
        for parameter_name, parameter in module._parameters.items()
        if parameter is not None and parameter.ndim == 3
    ]


def replace_experts(
    block: nn.Module,
    experts: nn.Module,
    layouts: Mapping[str, PackedStack],
    store: ExpertBytes,
    device: torch.device,
) -> PackedExperts:
    """Make a module's experts packed ones, in place. `block` is the module that calls them."""
    for name in STACKS:
        del experts._parameters[name]
    own = type(experts)
    experts.__class__ = type(f"Packed{own.__name__}", (PackedExperts, own), {})
    packed = cast(PackedExperts, experts)
    packed.layouts, packed.store, packed.device, packed.factors = layouts, store, device, {}
    # An adapter comes later, by peft, which would add its product to a parameter that is not there.
    block.register_forward_pre_hook(_take_adapters_over)
    return packed


def _take_adapters_over(block: nn.Module, arguments: Any) -> None:
    for child in block.children():
        wrapper: Any = child
        while isinstance(wrapper, ParamWrapper):
            base = wrapper.get_base_layer()
            if isinstance(base, PackedExperts) and "_activate_lora" not in vars(wrapper):
                vars(wrapper)["_activate_lora"] = partial(_with_factors, wrapper, base)
            wrapper = wrapper.base_layer


@contextmanager
def _with_factors(wrapper: ParamWrapper, experts: PackedExperts, adapters: list[str]) -> Iterator[None]:
    """Lend an adapter's matrices to the experts for one forward, where peft would make a whole new stack."""
    active = [name for name in adapters or () if name in wrapper.lora_A]
    if len(active) > 1:
        raise InvalidSpec("lora.target_parameters", ", ".join(active), "packed experts take one adapter")
    name: Any = wrapper.parameter_name
    if active:
        experts.factors[name] = wrapper.get_delta_factors(active[0])
    try:
        yield
    finally:
        experts.factors.pop(name, None)


class _PackedProduct(torch.autograd.Function):
    """Rows, sorted by expert, times the transposed matrices of their experts."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, routing: Routing, layout: PackedStack, store: ExpertBytes, name: str
    ) -> torch.Tensor:
        ctx.save_for_backward(routing.offsets)
        ctx.rest = (routing, layout, store, name)
        product = rows.new_empty((rows.size(0), layout.shape[1]))
        _multiply(rows, product, ctx.rest, backward=False)
        if name == STACKS[-1]:
            store.done(backward=False)
        return product

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _, layout, store, name = ctx.rest
        # Asked for by name so that checkpointing, which drops what a node saved, computes its layer again.
        _ = ctx.saved_tensors
        rows = None
        if ctx.needs_input_grad[0]:
            rows = gradient.new_empty((gradient.size(0), layout.shape[2]))
            _multiply(gradient.contiguous(), rows, ctx.rest, backward=True)
        if name == STACKS[0]:
            store.done(backward=True)
        return rows, None, None, None, None


def _multiply(
    rows: torch.Tensor,
    product: torch.Tensor,
    rest: tuple[Routing, PackedStack, ExpertBytes, str],
    *,
    backward: bool,
) -> None:
    """Write the product, a piece of the stack at a time; experts without rows are not read at all."""
    routing, layout, store, name = rest
    data = store.take(backward=backward)[name]
    for first, last in _pieces(layout):
        start, end = routing.start(first), routing.ends[last - 1]
        if start == end:
            continue
        weights = layout.unpack(data, first, last)
        weights = weights if backward else weights.transpose(-2, -1)
        if last - first < _FEW:
            for expert in range(first, last):
                part = slice(routing.start(expert), routing.ends[expert])
                if part.start < part.stop:
                    torch.mm(rows[part], weights[expert - first], out=product[part])
        else:
            product[start:end] = _grouped(rows[start:end], weights, routing.offsets[first:last] - start)
    store.used()


def _pieces(layout: PackedStack) -> Iterator[tuple[int, int]]:
    """Cut a stack into parts that are not too large once they are numbers again."""
    count, rows, columns = layout.shape
    each = rows * columns * layout.dtype.itemsize
    size = max(1, _PER_PIECE_BYTES // each) if layout.divisible else count
    for first in range(0, count, size):
        yield first, min(count, first + size)


def _grouped(rows: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return each group of rows times its matrix: (rows, in), (groups, in, out), (groups) -> (rows, out)."""
    # The kernel wants rows of whole 16 bytes, which a low rank need not have.
    aligned = all(size * weights.element_size() % 16 == 0 for size in weights.shape[1:])
    if aligned and (rows.device.type == "cpu" or _has_grouped_kernel(rows.device)):
        product: torch.Tensor = nn.functional.grouped_mm(rows, weights, offs=offsets)
        return product
    fallback: torch.Tensor = torch.ops.transformers.grouped_mm_fallback(rows, weights, offsets)
    return fallback


def _has_grouped_kernel(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _routing(experts: torch.Tensor, count: int) -> Routing:
    """Return where each expert's rows end, of the experts of rows that are sorted by them."""
    each = torch.arange(count, device=experts.device, dtype=experts.dtype)
    offsets = torch.searchsorted(experts, each, right=True).to(torch.int32)
    if isinstance(offsets, FakeTensor):
        # Without numbers: as if every expert had as many rows.
        return Routing([experts.size(0) * (each + 1) // count for each in range(count)], offsets)
    return Routing(offsets.tolist(), offsets)
