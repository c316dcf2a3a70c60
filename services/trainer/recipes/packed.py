"""A stack of matrices in 4 or 8 bit: one run of bytes, and what turns a part of it back into numbers.

nf4 by bitsandbytes: blocks of 64 values share a scale, and with double quantisation the scales are 8 bit too.
int8: each row has a scale. Both store weights only; whatever computes gets them as plain tensors.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from bitsandbytes import functional

from services.common.specs import QuantizationMethod, QuantizationOptions

_BLOCK = 64
_INT8_MAX = 127.0


@dataclass(frozen=True)
class PackedStack:
    """How the bytes of a stack of matrices are read. The bytes themselves may be anywhere."""

    shape: tuple[int, int, int]
    """(matrices, rows, columns)."""
    dtype: torch.dtype
    """The format that it is turned back into."""
    weight_bytes: int
    """The bytes of the values, before those of their scales."""
    scales: Any = None
    """nf4 with double quantisation: bitsandbytes' description of the scales' own scales, and their mean."""
    method: QuantizationMethod = QuantizationMethod.NF4

    @property
    def parameters(self) -> int:
        """How many numbers it stands for."""
        return prod(self.shape)

    @property
    def divisible(self) -> bool:
        """Whether a part of the stack can be read without the rest."""
        return self.method is QuantizationMethod.INT8 or prod(self.shape[1:]) % _BLOCK == 0

    def unpack(self, data: torch.Tensor, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return matrices `first` to `last`, without the latter: (last - first, rows, columns)."""
        last = self.shape[0] if last is None else last
        if self.method is QuantizationMethod.INT8:
            return self._unpack_int8(data, first, last)
        scales = self._scales(data[self.weight_bytes :])
        each = prod(self.shape[1:])
        values = data[: self.weight_bytes]
        if (first, last) != (0, self.shape[0]):
            values = values[first * each // 2 : last * each // 2]
            scales = scales[first * each // _BLOCK : last * each // _BLOCK]
        # As one long row: on a CPU the scales of rows that are no multiple of a block would be mixed up.
        unpacked: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            values.view(-1, 1), scales, _BLOCK, "nf4", ((last - first) * each,), self.dtype
        )
        return unpacked.view(last - first, *self.shape[1:])

    def _scales(self, data: torch.Tensor) -> torch.Tensor:
        if self.scales is None:
            return data.view(torch.float32)
        state, mean = self.scales
        scales: torch.Tensor = functional.dequantize_blockwise(data, state) + mean
        return scales

    def _unpack_int8(self, data: torch.Tensor, first: int, last: int) -> torch.Tensor:
        count, rows, columns = self.shape
        values = data[: self.weight_bytes].view(torch.int8).view(count, rows, columns)[first:last]
        scales = data[self.weight_bytes :].view(torch.float32).view(count, rows, 1)[first:last]
        return values.to(self.dtype) * (scales / _INT8_MAX).to(self.dtype)


def pack(
    weight: torch.Tensor, options: QuantizationOptions, dtype: torch.dtype
) -> tuple[PackedStack, torch.Tensor]:
    """Return how a stack of matrices was packed, and its bytes, on the device of `weight`.

    `dtype` is what it will be turned back into.
    """
    count, rows, columns = weight.shape
    shape = (count, rows, columns)
    if options.method is QuantizationMethod.INT8:
        values, scales, _ = functional.int8_vectorwise_quant(weight.reshape(-1, columns).to(torch.float16))
        data = _joined(values, scales.float())
        return PackedStack(shape, dtype, values.numel(), method=options.method), data
    double = options.bnb_4bit_use_double_quant is not False
    packed, state = functional.quantize_4bit(
        weight.contiguous(), blocksize=_BLOCK, compress_statistics=double, quant_type="nf4"
    )
    scales = (state.state2, state.offset) if double else None
    return PackedStack(shape, dtype, packed.numel(), scales), _joined(packed, state.absmax)


def _joined(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    # One run of bytes is one copy to the device, at the full speed of the bus.
    parts = (values.reshape(-1).view(torch.uint8), scales.reshape(-1).view(torch.uint8))
    return torch.cat(parts)
