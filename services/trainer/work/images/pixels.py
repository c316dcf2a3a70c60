"""From a picture's bytes to the tensor that a model takes: the same way in training, evaluation and use."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional

from services.trainer.work.errors import BadItem

Transform = Callable[[torch.Tensor], torch.Tensor]

PIXEL_LIMIT = 100_000_000
"""Pixels above which a picture is refused: a few kilobytes can declare that many."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


@dataclass(frozen=True)
class ImageShape:
    """What a model wants of its pictures: square, RGB, and normalised a channel at a time."""

    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def of_source(cls, size: int, processor_json: str) -> "ImageShape":
        """Return the shape at `size`, with the normalisation that the model was trained with."""
        settings = json.loads(processor_json) if processor_json else {}
        mean, std = settings.get("image_mean"), settings.get("image_std")
        return cls(size, tuple(mean), tuple(std)) if mean and std else cls(size)

    @classmethod
    def of_artifact(cls, path: Path) -> "ImageShape":
        """Return the shape that `save` wrote."""
        settings = json.loads((path / "preprocessor_config.json").read_bytes())
        return cls(settings["size"]["height"], tuple(settings["image_mean"]), tuple(settings["image_std"]))

    def save(self, path: Path) -> None:
        """Write `preprocessor_config.json`, with which AutoImageProcessor prepares pictures just so."""
        # ViT's processor is the plain one, resize and normalise, whatever the architecture.
        from transformers import ViTImageProcessor

        size = {"height": self.size, "width": self.size}
        processor = ViTImageProcessor(size=size, image_mean=list(self.mean), image_std=list(self.std))
        processor.save_pretrained(str(path))

    def resize(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the picture (3, height, width) at the model's size."""
        resized: torch.Tensor = functional.resize(picture, [self.size, self.size], antialias=True)
        return resized

    def normalize(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the uint8 picture as the floats that the model takes."""
        scaled = functional.to_dtype(picture, torch.float32, scale=True)
        normal: torch.Tensor = functional.normalize(scaled, list(self.mean), list(self.std))
        return normal

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the picture as the model takes it, with nothing random."""
        return self.normalize(self.resize(picture))


def decode(data: bytes, item: str) -> torch.Tensor:
    """Return a picture as uint8 of shape (3, height, width), turned as its camera says.

    Raises:
        BadItem: these bytes are no picture, are damaged, or declare too many pixels.
    """
    try:
        # Pillow reads two dozen formats more, each a parser that strangers' bytes would reach.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # Known from the header, before a pixel is decoded.
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise BadItem.of(item, f"{width} x {height} pixels are more than the {PIXEL_LIMIT} allowed")
            picture: torch.Tensor = functional.pil_to_tensor(_upright_rgb(image))
            return picture
    except UnidentifiedImageError:
        raise BadItem.of(item, f"it is none of {', '.join(_FORMATS)}") from None
    except Image.DecompressionBombError:
        raise BadItem.of(item, f"it declares more than the {PIXEL_LIMIT} pixels allowed") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadItem.of(item, f"it is damaged: {error}") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits a pixel: Pillow would cut off all above the eighth bit instead of scaling.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    return (ImageOps.exif_transpose(image) or image).convert("RGB")
