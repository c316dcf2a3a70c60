"""What the platform costs a training step, against trl called directly: `python -m benchmarks.against_trl`.

Both train the same random model on the same rows with the same settings, in one process and by turns. On a
GPU that is an 8B model with QLoRA and a 1B model with LoRA; elsewhere a small one, which shows what a step
costs more and nothing about a GPU. The goal is tokens per second within 3 % of trl.
"""

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoConfig, PreTrainedConfig, PrinterCallback, Trainer, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from services.common.specs import (
    CheckpointOptions,
    DeviceKind,
    EvaluationOptions,
    IntervalStrategy,
    LoraOptions,
    ModelSource,
    Optimizer,
    Precision,
    QuantizationMethod,
    QuantizationOptions,
    SchedulerType,
    Task,
    TextOptions,
    TrainingOptions,
    TrainingSpec,
)
from services.trainer.recipes import recipe_for
from services.trainer.recipes.language_model import build_language_model
from services.trainer.recipes.text import stand_in_tokenizer
from services.trainer.work.callbacks import Telling
from services.trainer.work.environment import detect_hardware
from services.trainer.work.events import EventWriter
from services.trainer.work.measures import measures_of
from services.trainer.work.memory import MemoryWatch

STEPS = 12
ROUNDS = 3
_WARM_UP = 2
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
_LLAMA_1B = {**_LLAMA_8B, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
_SMALL = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
}


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    config: dict[str, int]
    batch: int
    length: int
    quantized: bool


def cases(on_gpu: bool) -> list[Case]:
    """Return what is compared on this machine."""
    if not on_gpu:
        return [Case("small Llama, LoRA, CPU", _SMALL, 2, 128, quantized=False)]
    return [
        Case("Llama 8B, QLoRA", _LLAMA_8B, 4, 1024, quantized=True),
        Case("Llama 1B, LoRA", _LLAMA_1B, 8, 1024, quantized=False),
    ]


class Watch(TrainerCallback):
    """Times steps."""

    def __init__(self) -> None:
        """Begin without any."""
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        _wait()
        self._begun = time.perf_counter()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Stop it after what was logged was told: telling is what the platform adds."""
        if len(self.seconds) < STEPS:
            _wait()
            self.seconds.append(time.perf_counter() - self._begun)


def measure(case: Case, device: DeviceKind, folder: Path) -> None:
    """Print tokens per second of both, and their ratio."""
    makers: dict[str, Callable[[], Trainer]] = {
        "trl": lambda: by_hand(case, device),
        "weighbridge": lambda: by_recipe(case, device, folder),
    }
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            seconds[name] += _steps(make())
    rates = {name: case.batch * case.length / statistics.median(times) for name, times in seconds.items()}
    print(f"{case.name}, batch {case.batch} x {case.length} tokens, median of {len(seconds['trl'])} steps")
    for name, rate in rates.items():
        print(f"  {name:<12} {rate:>10,.0f} tokens/s")
    print(f"  weighbridge / trl: {rates['weighbridge'] / rates['trl']:.3f} (goal: at least 0.97)")


def by_recipe(case: Case, device: DeviceKind, folder: Path) -> Trainer:
    """Return the recipe's trainer, telling its progress as a worker's does."""
    spec = _spec(case, device)
    trainer = recipe_for(Task.SFT).build(spec, _config(case), hardware=detect_hardware(device))
    watch = MemoryWatch(folder / "usage.json", None, lambda used_bytes: None)
    watch.start()
    trainer.add_callback(Telling(EventWriter(folder / "events.jsonl"), watch, measures_of(Task.SFT)))
    never = CheckpointOptions(save_strategy=IntervalStrategy.NO)
    trainer.attach(_rows(case), None, EvaluationOptions(), never)
    return trainer


def by_hand(case: Case, device: DeviceKind) -> Trainer:
    """Return trl's trainer as its own documentation sets it up."""
    spec = _spec(case, device)
    hardware = detect_hardware(device)
    precision = Precision.BF16 if device is DeviceKind.CUDA else Precision.FP32
    torch.manual_seed(7)
    model = build_language_model(spec, _config(case), None, precision, hardware).model
    arguments = SFTConfig(
        output_dir=".",
        per_device_train_batch_size=case.batch,
        max_steps=STEPS,
        learning_rate=1e-4,
        logging_steps=1,
        bf16=precision is Precision.BF16,
        use_cpu=device is not DeviceKind.CUDA,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=7,
    )
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=_rows(case),
        processing_class=stand_in_tokenizer(),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=list(_TARGETS)),
    )


def _steps(trainer: Trainer) -> list[float]:
    watch = Watch()
    trainer.add_callback(watch)
    # It prints every line of the log.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return watch.seconds[_WARM_UP:]


def _config(case: Case) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.for_model("llama", **case.config)
    return config


def _rows(case: Case) -> Dataset:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(2, case.config["vocab_size"], (STEPS * case.batch, case.length), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})


def _spec(case: Case, device: DeviceKind) -> TrainingSpec:
    return TrainingSpec(
        task=Task.SFT,
        model=ModelSource(config=dict(case.config)),
        dataset="",
        text=TextOptions(max_length=case.length),
        lora=LoraOptions(r=16, lora_alpha=32.0, lora_dropout=0.0, target_modules=_TARGETS),
        quantization=QuantizationOptions(method=QuantizationMethod.NF4, bnb_4bit_use_double_quant=True)
        if case.quantized
        else None,
        precision=Precision.AUTO,
        training=TrainingOptions(
            max_steps=STEPS,
            per_device_train_batch_size=case.batch,
            learning_rate=1e-4,
            lr_scheduler_type=SchedulerType.LINEAR,
            optim=Optimizer.ADAMW_TORCH_FUSED,
            adam_beta1=0.9,
            adam_beta2=0.999,
            max_grad_norm=1.0,
            gradient_checkpointing=True,
            logging_steps=1,
        ),
        seed=7,
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Print every comparison that this machine can make."""
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    # More threads than one take turns with whatever else runs on the machine.
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    device = DeviceKind.CUDA if on_gpu else DeviceKind.CPU
    if not on_gpu:
        print("No GPU: a small model on the CPU. What holds for 8B and 1B models is not shown by this.")
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as folder:
        for case in cases(on_gpu):
            measure(case, device, Path(folder))


if __name__ == "__main__":
    main()
