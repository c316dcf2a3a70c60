"""Random changes of training pictures, by torchvision's transforms.v2."""

import hashlib
from collections.abc import Callable

import torch
from torchvision.transforms import v2

from services.common.specs import Augmentation, ImageOptions
from services.trainer.work.images.pixels import ImageShape

# The usual choice for photographs, where a spec leaves it open.
DEFAULT = (Augmentation.RANDOM_RESIZED_CROP, Augmentation.RANDOM_HORIZONTAL_FLIP)

_MAKERS: dict[Augmentation, Callable[[int], torch.nn.Module]] = {
    Augmentation.RANDOM_RESIZED_CROP: lambda size: v2.RandomResizedCrop(
        [size, size], (0.8, 1.0), antialias=True
    ),
    Augmentation.RANDOM_HORIZONTAL_FLIP: lambda size: v2.RandomHorizontalFlip(0.5),
    Augmentation.RANDOM_VERTICAL_FLIP: lambda size: v2.RandomVerticalFlip(0.5),
    Augmentation.RANDOM_AFFINE: lambda size: v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1)),
    Augmentation.COLOR_JITTER: lambda size: v2.ColorJitter(0.2, 0.2, 0.2),
    Augmentation.TRIVIAL_AUGMENT_WIDE: lambda size: v2.TrivialAugmentWide(),
    Augmentation.RAND_AUGMENT: lambda size: v2.RandAugment(),
    Augmentation.RANDOM_ERASING: lambda size: v2.RandomErasing(0.25),
}


def augmenter(options: ImageOptions, shape: ImageShape) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what turns a uint8 picture (3, height, width) into a training tensor; it draws from torch."""
    chosen = () if options.no_augmentations else options.augmentations or DEFAULT
    steps = [_MAKERS[augmentation](shape.size) for augmentation in chosen]
    # A crop from the whole picture keeps what shrinking first would lose.
    crops_first = bool(chosen) and chosen[0] is Augmentation.RANDOM_RESIZED_CROP

    def augment(picture: torch.Tensor) -> torch.Tensor:
        result = picture if crops_first else shape.resize(picture)
        for step in steps:
            result = step(result)
        return shape.normalize(result)

    return augment


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of one example's augmentation in one epoch.

    It depends on nothing else, such as how many were drawn before: a run that goes on from a checkpoint, or
    loads with more processes, sees the same pictures.
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
