"""What a language model's outputs take: a row of the vocabulary's width for each token, or tiles of it.

trl computes the loss of sft and dpo from tiles of logits, made anew for the gradient and never held whole.
Label smoothing, and transformers' own trainer for models with an encoder, hold them whole.
"""

from services.common.specs import DeviceKind, Task, TrainingSpec
from services.hardware.estimate.shapes import Shapes

_FP32 = 4
# trl's tiles: tokens, and words.
_TILE_TOKENS, _TILE_WORDS = 4096, 32768
# Beside the tile itself: one fused kernel on a GPU; without it scores, probabilities, targets, gradients.
_TILES = {DeviceKind.CPU: 7, DeviceKind.CUDA: 2}
# Logits, their gradient and the softmax between them; smoothing sums over the vocabulary once more.
_WHOLE, _SMOOTHED = 3, 6


def logit_bytes(shapes: Shapes, spec: TrainingSpec, kind: DeviceKind) -> int:
    """Return what outputs, their softmax and their gradient take at once."""
    if spec.task is Task.IMAGE_CLASSIFICATION:
        return _WHOLE * _FP32 * shapes.logits
    smoothed = spec.training is not None and bool(spec.training.label_smoothing_factor)
    if smoothed and spec.task is Task.SFT:
        return _SMOOTHED * _FP32 * shapes.logits
    if shapes.has_encoder:
        return _WHOLE * _FP32 * shapes.logits
    tokens = shapes.logits // max(1, shapes.vocabulary)
    rows, words = min(tokens, _TILE_TOKENS), min(shapes.vocabulary, _TILE_WORDS)
    # The tile is as wide as can be, whatever the vocabulary; what is computed from it is not.
    tiles = rows * (_TILE_WORDS + _TILES[kind] * words)
    # The head's gradient is summed up in fp32 before it is added to those that are counted.
    trained = spec.lora is None or bool(spec.lora.modules_to_save)
    return _FP32 * (tiles + (shapes.head if trained else 0))
