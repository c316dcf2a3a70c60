"""Frozen weights in 4 or 8 bit, by bitsandbytes, in a model that is already built.

transformers quantises while it reads a checkpoint; here weights come from wherever the worker has them, or
are random, and the experts are quantised too. What transformers, trl and peft ask a quantised model for is
set as they set it.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod as TransformersMethod

from services.common.errors import InvalidSpec
from services.common.specs import QuantizationMethod, QuantizationOptions
from services.trainer.recipes.experts import (
    STACKS,
    PackedExperts,
    is_experts,
    replace_experts,
    unknown_experts,
)
from services.trainer.recipes.packed import pack
from services.trainer.recipes.streaming import ExpertStream, ResidentBytes
from services.trainer.recipes.targets import is_router, state_space_mixers

# As transformers sets it: inputs beyond it are multiplied in 16 bit.
_INT8_THRESHOLD = 6.0
_BLOCKS = (64, 32)
# These are read by a mixer's kernels as plain tensors, or, in dt_proj's case, always.
_READ_AS_TENSORS = ("out_proj", "x_proj", "dt_proj")

WeightOf = Callable[[torch.Tensor], torch.Tensor]


def quantize(
    model: PreTrainedModel,
    options: QuantizationOptions,
    *,
    device: torch.device,
    compute_dtype: torch.dtype,
    offload_experts: bool = False,
    weight_of: WeightOf | None = None,
) -> list[str]:
    """Quantise a model's linear layers and experts in place, move the rest to `device`, and freeze it all.

    The model has its weights in 16 or 32 bit in host memory; each is copied to `device`, quantised there, and
    let go of. The head, routers, embeddings, norms and what kernels read directly keep their format. With
    `offload_experts` the packed experts are in host memory, pinned where `device` is a GPU, and streamed.
    `weight_of` gives the numbers for a parameter, where they are not its own.

    Returns:
        What was done, as sentences, with figures.

    Raises:
        InvalidSpec: the model has weights that cannot be quantised, or no experts to stream.
    """
    strange = unknown_experts(model)
    if strange:
        limit = f"{model.config.model_type} stacks its experts in a way that is not known here ({strange[0]})"
        raise InvalidSpec("quantization.method", options.method, f"{limit}: leave quantization out")
    work = _Work(options, device, compute_dtype, weight_of or (lambda weight: weight))
    stream = ExpertStream(device) if offload_experts else None
    packed = _pack_experts(model, work, stream)
    if offload_experts and not packed:
        limit = f"{model.config.model_type} has no stacked experts: leave it out"
        raise InvalidSpec("placement.expert_offload", True, limit)
    linears = list(_linears(model))
    for name, module in linears:
        model.set_submodule(name, work.linear(name, module))
    model.requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]
    _declare(model, options, compute_dtype, packed=bool(packed))
    told = [f"quantised: {len(linears)} linear layers in {_words(options)}"]
    if packed:
        where = "streamed from host memory" if offload_experts else "on the device"
        size = sum(experts.store.size_bytes for experts in packed)
        told.append(f"experts: {size / 2**30:.2f} GiB in {_words(options)}, {where}")
    verify_quantized(model, options)
    return told


def verify_quantized(model: nn.Module, options: QuantizationOptions) -> None:
    """Count the bytes of what was to be quantised.

    Raises:
        InvalidSpec: linear layers or experts are larger than their format is.
    """
    # 4 bit and a 32-bit scale for 32 values are 5 bit; int8 adds 32 bit a row.
    limit = 0.63 if options.method is QuantizationMethod.NF4 else 1.3
    for name, module in model.named_modules():
        actual, parameters = _size(module)
        if parameters and actual > limit * parameters + 1024:
            detail = f"{name} takes {actual:,} bytes for {parameters:,} numbers, more than {limit} each"
            raise InvalidSpec("quantization.method", options.method, detail)
        if is_experts(module):
            detail = f"the experts {name} are still in {getattr(module, STACKS[0]).dtype}"
            raise InvalidSpec("quantization.method", options.method, detail)


class _Work:
    """How one weight becomes a quantised one."""

    def __init__(
        self,
        options: QuantizationOptions,
        device: torch.device,
        compute_dtype: torch.dtype,
        weight_of: WeightOf,
    ) -> None:
        self.options, self.device, self.compute_dtype = options, device, compute_dtype
        self._weight_of = weight_of
        self._double = options.bnb_4bit_use_double_quant is not False

    def weight(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return a weight's numbers on the device."""
        return self._weight_of(parameter.detach()).to(self.device)

    def linear(self, name: str, module: nn.Module) -> Any:
        """Return the quantised layer that computes what `module` does."""
        weight = self.weight(module.weight)  # type: ignore[arg-type]
        if isinstance(module, Conv1D):
            # Its matrix is the transposed one.
            weight = weight.T.contiguous()
        bias: Any = module.bias
        # Their constructors make their own kinds of tensor, which no fake one can become.
        with unset_fake_temporarily():
            layer: Any = self._empty(name, weight, has_bias=bias is not None)
        four_bit = isinstance(layer, Linear4bit)
        layer.weight = self._four_bit(name, layer, weight) if four_bit else self._int8(weight)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().to(self.device), requires_grad=False)
        return layer

    def _empty(self, name: str, weight: torch.Tensor, *, has_bias: bool) -> Any:
        """Return the quantised layer without its weights."""
        rows, columns = weight.shape
        kind: Any = Linear8bitLt
        if self.options.method is QuantizationMethod.INT8:
            return kind(
                columns, rows, bias=has_bias, has_fp16_weights=False, threshold=_INT8_THRESHOLD, device="meta"
            )
        # T5's and Switch's feed-forward casts its input to the format of this weight: never to bytes.
        storage = weight.dtype if name.endswith(".wo") else torch.uint8
        kind = Linear4bit
        layer = kind(
            columns,
            rows,
            bias=has_bias,
            compute_dtype=self.compute_dtype,
            compress_statistics=self._double,
            quant_type="nf4",
            quant_storage=storage,
            device="meta",
        )
        # An evaluation would repack the weights for inference, and gradients after it would be wrong.
        layer.support_avx512bf16_for_cpu = False
        return layer

    def _four_bit(self, name: str, layer: Any, weight: torch.Tensor) -> nn.Parameter:
        block = self._block(name, weight.shape[1])
        packed, state = functional.quantize_4bit(
            weight.contiguous(),
            blocksize=block,
            compress_statistics=self._double,
            quant_type="nf4",
            quant_storage=layer.quant_storage,
        )
        layer.quant_state = state
        facts: dict[str, Any] = {
            "quant_state": state,
            "blocksize": block,
            "compress_statistics": self._double,
            "quant_type": "nf4",
            "quant_storage": layer.quant_storage,
            "bnb_quantized": True,
        }
        return _parameter(Params4bit, packed, {**facts, "module": layer})

    def _block(self, name: str, columns: int) -> int:
        """Return how many values share a scale."""
        if self.device.type != "cpu":
            return _BLOCKS[0]
        # On a CPU bitsandbytes gives rows that are no multiple of a block the scales of other blocks.
        fitting = [block for block in _BLOCKS if columns % block == 0]
        if not fitting:
            limit = f"{name} has {columns} inputs, no multiple of 32, which a CPU unpacks wrongly: use int8"
            raise InvalidSpec("quantization.method", self.options.method, limit)
        return fitting[0]

    def _int8(self, weight: torch.Tensor) -> nn.Parameter:
        values, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        return _parameter(Int8Params, values, {"CB": values, "SCB": scales, "has_fp16_weights": False})


def _parameter(kind: Any, data: torch.Tensor, facts: dict[str, Any]) -> nn.Parameter:
    if isinstance(data, FakeTensor):
        # Weighed only, and never moved: a plain parameter with the same facts does.
        plain = nn.Parameter(data, requires_grad=False)
        vars(plain).update(facts)
        return plain
    parameter: nn.Parameter = kind(data, requires_grad=False, **facts)
    return parameter


def _pack_experts(model: PreTrainedModel, work: _Work, stream: ExpertStream | None) -> list[PackedExperts]:
    packed = []
    for name, experts in [found for found in model.named_modules() if is_experts(found[1])]:
        layouts, payloads = {}, {}
        for stack in STACKS:
            weight = work.weight(getattr(experts, stack))
            layouts[stack], payloads[stack] = pack(weight, work.options, work.compute_dtype)
            del weight
        store = ResidentBytes(payloads) if stream is None else stream.add(payloads)
        block = model.get_submodule(name.rpartition(".")[0])
        packed.append(replace_experts(block, experts, layouts, store, work.device))
    return packed


def _linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers to quantise, by name."""
    head = model.get_output_embeddings()
    inside = {
        id(child)
        for mixer in state_space_mixers(model)
        for name, child in mixer.named_children()
        if name in _READ_AS_TENSORS
    }
    for name, module in model.named_modules():
        plain = type(module) is nn.Linear or isinstance(module, Conv1D)
        if plain and module is not head and id(module) not in inside and not is_router(name):
            yield name, module


def _declare(
    model: PreTrainedModel, options: QuantizationOptions, compute_dtype: torch.dtype, *, packed: bool
) -> None:
    """Say to transformers, trl and peft what they have before them, as `from_pretrained` would."""
    known: Any = model
    # One line for each layer of each evaluation, about nothing that could be done.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if options.method is QuantizationMethod.INT8:
        quantizer: Any = Bnb8BitHfQuantizer(BitsAndBytesConfig(load_in_8bit=True), pre_quantized=False)
        known.is_loaded_in_8bit = True
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=options.bnb_4bit_use_double_quant is not False,
            bnb_4bit_compute_dtype=compute_dtype,
        )
        quantizer = Bnb4BitHfQuantizer(config, pre_quantized=False)
        known.is_loaded_in_4bit = True
    if packed:
        # Saved as it is, it would lack its experts.
        quantizer.is_serializable = lambda: False
    known.hf_quantizer, known.is_quantized = quantizer, True
    # Some architectures read weights directly unless they are told. It is never written into a file.
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._is_quantized = True
    known.quantization_method = TransformersMethod.BITS_AND_BYTES


def _size(module: nn.Module) -> tuple[int, int]:
    """Return the bytes and the numbers of a quantised module, (0, 0) of another."""
    if isinstance(module, PackedExperts):
        return module.store.size_bytes, sum(layout.parameters for layout in module.layouts.values())
    if isinstance(module, Linear4bit | Linear8bitLt):
        weight: Any = module.weight
        state = getattr(weight, "quant_state", None)
        scales = 0 if state is None else state.absmax.nbytes
        return weight.nbytes + scales, module.in_features * module.out_features
    return 0, 0


def _words(options: QuantizationOptions) -> str:
    if options.method is QuantizationMethod.INT8:
        return "int8"
    return "nf4" if options.bnb_4bit_use_double_quant is False else "nf4 with double quantisation"
