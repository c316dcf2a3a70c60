"""Small real data sets and specs whose training takes seconds."""

import random
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SIDE = 16
SHAPES = ("circle", "cross", "square")


def shapes_zip(path: Path, per_label: int = 20, seed: int = 0) -> Path:
    """Write pictures of coloured shapes, one folder a shape, and return `path`."""
    draw = random.Random(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for shape in SHAPES:
            for index in range(per_label):
                archive.writestr(f"{shape}/{index:03}.png", shape_png(shape, draw))
    return path


def shape_png(shape: str, draw: random.Random) -> bytes:
    """Return one picture of a shape, its place and shade drawn at random."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    left, top = draw.randint(0, 4), draw.randint(0, 4)
    shade = draw.randint(0, 120)
    box = (left, top, left + 10, top + 10)
    if shape == "circle":
        pen.ellipse(box, fill=(shade, shade, 200))
    elif shape == "square":
        pen.rectangle(box, fill=(200, shade, shade))
    else:
        pen.line((box[0], box[1], box[2], box[3]), fill=(shade, 160, shade), width=2)
        pen.line((box[0], box[3], box[2], box[1]), fill=(shade, 160, shade), width=2)
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def tiny_vit(dataset: str = "shapes", **changes: Any) -> dict[str, Any]:
    """Return a spec of a Vision Transformer that trains in seconds; `changes` replace whole groups."""
    spec: dict[str, Any] = {
        "task": "image_classification",
        "model": {
            "config": {
                "model_type": "vit",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "image_size": SIDE,
                "patch_size": 4,
                "hidden_dropout_prob": 0.1,
            }
        },
        "dataset": dataset,
        "image": {"augmentations": ["random_affine"]},
        "training": {"num_train_epochs": 4, "per_device_train_batch_size": 8, "learning_rate": 2e-3},
        "evaluation": {"validation_split": 0.2},
    }
    return {**spec, **changes}
