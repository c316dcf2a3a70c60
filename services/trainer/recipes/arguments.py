"""transformers' TrainingArguments from a spec: optimiser, schedule, length, precision."""

from typing import Any

from services.common.specs import DeviceKind, Precision, TrainingSpec
from services.trainer.recipes.fields import need
from services.trainer.recipes.recipe import Hardware


def argument_values(spec: TrainingSpec, precision: Precision, hardware: Hardware) -> dict[str, Any]:
    """Return the arguments of the training itself, by name; `precision` has been chosen.

    They are those that TrainingArguments and trl's own classes of them share.
    When to evaluate and to save is set by whoever attaches data: without data a Trainer refuses the first.
    """
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "training.per_device_train_batch_size")
    workers = training.dataloader_num_workers or 0
    on_gpu = hardware.device is DeviceKind.CUDA
    seed = need(spec.seed, "seed")
    return {
        # Nothing is written there: it only has to be a directory that exists.
        "output_dir": ".",
        "num_train_epochs": training.num_train_epochs or 1.0,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": _eval_batch(spec, batch),
        "gradient_accumulation_steps": training.gradient_accumulation_steps or 1,
        "learning_rate": need(training.learning_rate, "training.learning_rate"),
        "lr_scheduler_type": need(training.lr_scheduler_type, "training.lr_scheduler_type").value,
        "warmup_steps": training.warmup_steps or 0,
        "optim": need(training.optim, "training.optim").value,
        "weight_decay": training.weight_decay or 0.0,
        "adam_beta1": need(training.adam_beta1, "training.adam_beta1"),
        "adam_beta2": need(training.adam_beta2, "training.adam_beta2"),
        "max_grad_norm": need(training.max_grad_norm, "training.max_grad_norm"),
        "activation_checkpointing": bool(training.gradient_checkpointing),
        "torch_compile": bool(training.torch_compile),
        "label_smoothing_factor": training.label_smoothing_factor or 0.0,
        "bf16": precision is Precision.BF16,
        "fp16": precision is Precision.FP16,
        "use_cpu": not on_gpu,
        "seed": seed,
        "data_seed": seed,
        "dataloader_num_workers": workers,
        "dataloader_pin_memory": on_gpu,
        # Of several devices each waits for every gradient, also of weights that a model has no use for.
        "ddp_find_unused_parameters": True,
        # Inherited at a fork: the lock that says that the run lives, and the memory of the imports.
        "dataloader_multiprocessing_context": "fork" if workers else None,
        "remove_unused_columns": False,
        "logging_steps": need(training.logging_steps, "training.logging_steps"),
        "logging_first_step": True,
        # It would hide a loss that is no number behind the mean of those before.
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def _eval_batch(spec: TrainingSpec, train_batch: int) -> int:
    asked = spec.evaluation.per_device_eval_batch_size if spec.evaluation else None
    return asked or train_batch
