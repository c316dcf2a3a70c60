"""Experts resident against experts streamed from host memory: `python -m benchmarks.moe_streaming`.

On a GPU: Mixtral-8x7B at full size with random weights, nf4, LoRA on attention, checkpointing, 4 x 2048
tokens a step; the streamed run under a cap. The weights are drawn and quantised one at a time, so neither the
host nor the device ever holds the model in 16 bit. Without a GPU: that both compute the same numbers as an
unquantised model with the same weights, on a small one. It fails where they do not.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.initialization import no_init_weights

from services.common.specs import LoraOptions, QuantizationMethod, QuantizationOptions
from services.trainer.recipes.adapter import lora_config
from services.trainer.recipes.experts import STACKS, PackedExperts
from services.trainer.recipes.language_model import language_model_class
from services.trainer.recipes.quantization import quantize

CAP_GIB = 12.0
PEAK_LIMIT_GIB = 11.0
SHARE_LIMIT = 0.8
BATCH, LENGTH = 4, 2048
WARM_UP, MEASURED = 2, 5

_NF4 = QuantizationOptions(method=QuantizationMethod.NF4)
_LORA = LoraOptions(r=16, lora_alpha=32.0, lora_dropout=0.0, target_modules=("all-linear",))
_SMALL = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_DEVIATION = 0.02


def main() -> int:
    """Print the figures, and return 1 where the streamed numbers are not the resident ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moe_streaming", description=__doc__)
    parser.add_argument("--placement", choices=("resident", "streamed"), help=argparse.SUPPRESS)
    placement = parser.parse_args().placement
    if placement is not None:
        print(json.dumps(measure(streamed=placement == "streamed")))
        return 0
    if not torch.cuda.is_available():
        return _check_numbers()
    resident, streamed = (_in_a_process(each) for each in ("resident", "streamed"))
    share = streamed["tokens_per_s"] / resident["tokens_per_s"]
    print(f"Mixtral-8x7B, nf4, LoRA on attention, {BATCH} x {LENGTH} tokens, {torch.cuda.get_device_name()}")
    for name, figures in (("resident", resident), ("streamed", streamed)):
        print(
            f"  {name}  peak {figures['peak_gib']:.2f} GiB allocated, {figures['reserved_gib']:.2f} reserved,"
            f"  {figures['tokens_per_s']:,.0f} tokens/s,  loss {figures['loss']:.4f}"
        )
    print(
        f"  streamed: {share:.0%} of the resident speed (goal at least {SHARE_LIMIT:.0%}), peak goal "
        f"{PEAK_LIMIT_GIB:g} GiB under a cap of {CAP_GIB:g}; {streamed['waits']} layers were waited for"
    )
    return 0


def measure(*, streamed: bool) -> dict[str, float]:
    """Train the full-size model for a few steps on this process's GPU, and return its figures."""
    device = torch.device("cuda")
    if streamed:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_GIB * 2**30 / total), device)
    set_seed(0)
    model = _trained(_full_size(device, streamed=streamed))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], fused=True)
    tokens = torch.randint(0, 32000, (BATCH, LENGTH), device=device)
    torch.cuda.reset_peak_memory_stats(device)
    loss, begin_s = torch.zeros(()), 0.0
    for step in range(WARM_UP + MEASURED):
        if step == WARM_UP:
            torch.cuda.synchronize(device)
            begin_s = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize(device)
    took_s = time.perf_counter() - begin_s
    return {
        "tokens_per_s": MEASURED * BATCH * LENGTH / took_s,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30,
        "loss": loss.item(),
        "waits": waits_of(model),
    }


def waits_of(model: nn.Module) -> int:
    """Return how many layers were not on the device when they were needed."""
    for module in model.modules():
        if isinstance(module, PackedExperts):
            stream = getattr(module.store, "stream", None)
            return 0 if stream is None else int(stream.waits)
    return 0


def unquantised(model: PreTrainedModel) -> PreTrainedModel:
    """Return a quantised model as an ordinary one, whose weights are what the quantised ones stand for."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit | Linear8bitLt):
            model.set_submodule(name, _plain(module))
        if isinstance(module, PackedExperts):
            data = module.store.take(backward=False)
            weights = {stack: module.layouts[stack].unpack(data[stack]) for stack in STACKS}
            # Its own class is the one under the packed behaviour.
            module.__class__ = type(module).__mro__[2]
            for stack, weight in weights.items():
                module.register_parameter(stack, nn.Parameter(weight.clone()))
    known: Any = model
    known.is_loaded_in_4bit = known.is_loaded_in_8bit = known.is_quantized = False
    known.hf_quantizer = known.quantization_method = None
    return model


def _plain(module: nn.Linear) -> nn.Linear:
    weight: Any = module.weight
    if isinstance(module, Linear4bit):
        numbers = functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        numbers = functional.int8_vectorwise_dequant(weight.data, weight.SCB)
    plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    plain.weight, plain.bias = nn.Parameter(numbers), module.bias
    return plain


def _full_size(device: torch.device, *, streamed: bool) -> PreTrainedModel:
    config = AutoConfig.for_model("mixtral")
    # Memory that nobody writes to is not taken: the 16-bit model exists in name only.
    with no_init_weights():
        model = _built(config, torch.bfloat16)
    quantize(
        model,
        _NF4,
        device=device,
        compute_dtype=torch.bfloat16,
        offload_experts=streamed,
        weight_of=lambda weight: torch.randn(weight.shape, device=device, dtype=weight.dtype) * _DEVIATION,
    )
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data.fill_(1.0) if parameter.ndim == 1 else parameter.data.normal_(0.0, _DEVIATION)
    return model


def _built(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = language_model_class(config)._from_config(
        config, dtype=dtype, attn_implementation="sdpa"
    )
    return model


def _trained(model: PreTrainedModel) -> PeftModel:
    set_seed(1)
    description = lora_config(model, _LORA)
    description.init_lora_weights = False
    wrapped = get_peft_model(model, description)
    assert isinstance(wrapped, PeftModel)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    return wrapped.train()


def _in_a_process(placement: str) -> dict[str, float]:
    # Each alone, so that neither finds the other's memory.
    command = [sys.executable, "-m", "benchmarks.moe_streaming", "--placement", placement]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return figures


def _check_numbers() -> int:
    """Compare losses and gradients of a small model on the CPU, bit by bit."""
    seen = {}
    for kind in ("unquantised", "resident", "streamed"):
        set_seed(0)
        model = _built(AutoConfig.for_model("mixtral", **_SMALL), torch.float32)
        told = quantize(
            model,
            _NF4,
            device=torch.device("cpu"),
            compute_dtype=torch.float32,
            offload_experts=kind == "streamed",
        )
        wrapped = _trained(unquantised(model) if kind == "unquantised" else model)
        seen[kind] = _gradients(wrapped)
        print(f"  {kind:<12} loss {seen[kind][0]:.6f}  {told[-1] if kind != 'unquantised' else ''}")
    loss, slopes = seen["unquantised"]
    same = all(
        seen[kind][0] == loss and all(torch.equal(seen[kind][1][name], slopes[name]) for name in slopes)
        for kind in ("resident", "streamed")
    )
    print(f"  losses and gradients are {'equal bit by bit' if same else 'NOT EQUAL'}")
    print("  Speed and peak need a GPU: the goal is at least 80 % of the resident speed at 11 GiB or less.")
    return 0 if same else 1


def _gradients(model: PeftModel) -> tuple[float, dict[str, torch.Tensor]]:
    tokens = torch.arange(2 * 64).view(2, 64) % _SMALL["vocab_size"]
    loss = torch.zeros(())
    for _ in range(2):
        model.zero_grad()
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
    return loss.item(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


if __name__ == "__main__":
    sys.exit(main())
