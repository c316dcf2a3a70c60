"""The number format of the computation, chosen by hardware."""

from services.common.errors import InvalidSpec
from services.common.specs import DeviceKind, Precision
from services.trainer.recipes.recipe import Hardware

# The first GPUs that compute in bfloat16.
_AMPERE = (8, 0)


def choose_precision(wanted: Precision, hardware: Hardware) -> Precision:
    """Return fp32, bf16 or fp16: what was asked for, or the best that the hardware has.

    Raises:
        InvalidSpec: the hardware does not have what was asked for.
    """
    on_gpu = hardware.device is DeviceKind.CUDA
    has_bf16 = not on_gpu or (hardware.compute_capability or (0, 0)) >= _AMPERE
    if wanted is Precision.AUTO:
        # A CPU computes in bf16 too, but seldom faster, and less exactly.
        return Precision.FP32 if not on_gpu else Precision.BF16 if has_bf16 else Precision.FP16
    if wanted is Precision.BF16 and not has_bf16:
        raise InvalidSpec(
            "precision", wanted, "bf16 needs a GPU of compute capability 8.0 or a CPU: use fp16"
        )
    if wanted is Precision.FP16 and not on_gpu:
        raise InvalidSpec("precision", wanted, "fp16 needs a GPU: use fp32 or bf16 on a CPU")
    return wanted
