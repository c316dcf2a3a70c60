"""Classifies pictures with an artifact: `python -m services.trainer.classify`, a child of the trainer.

It reads `{"artifact_dir": …, "images": [path, …], "top_k": 3}` from its standard input and writes to its
standard output, for each picture, its most probable labels: `[[{"label": …, "probability": …}, …], …]`; or,
where a picture cannot be used, `{"error": {"reason": …, "message": …, "metadata": …}}`.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.common.errors import InvalidDataset, InvalidModel, ServiceError
from services.common.failures import failure_of
from services.trainer.work.errors import BadItem

DEFAULT_TOP_K = 3

Scores = list[dict[str, str | float]]


def classify(artifact: Path, images: Sequence[Path], top_k: int) -> list[Scores]:
    """Return each picture's `top_k` labels, the most probable first.

    Raises:
        InvalidModel: the artifact is no image classifier.
        InvalidDataset: a file is no picture, is damaged, or declares too many pixels.
    """
    # Imported here: `main` first sets what they read when they are imported.
    import torch
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging as transformers_logging

    from services.trainer.work.images.pixels import ImageShape

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        shape = ImageShape.of_artifact(artifact)
        model = AutoModelForImageClassification.from_pretrained(artifact, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        # The node's own paths are nobody's business.
        detail = f"it cannot be loaded as an image classifier: {error}".replace(f"{artifact}/", "")
        raise InvalidModel(model=artifact.name, detail=detail) from error
    pictures = torch.stack([_prepared(path, index, shape) for index, path in enumerate(images)])
    with torch.inference_mode():
        probabilities = model(pixel_values=pictures).logits.softmax(dim=-1)
    best = probabilities.topk(min(top_k, probabilities.shape[-1]))
    names: Mapping[int, str] = model.config.id2label
    return [
        [
            {"label": names[index], "probability": value}
            for value, index in zip(row.tolist(), indices.tolist(), strict=True)
        ]
        for row, indices in zip(best.values, best.indices, strict=True)
    ]


def _prepared(path: Path, index: int, shape: Any) -> Any:
    from services.trainer.work.images.pixels import decode

    item = f"images[{index}]"
    try:
        return shape.prepare(decode(path.read_bytes(), item))
    except BadItem as error:
        raise InvalidDataset(item=item, limit="it must be a picture", actual=error.detail) from error


def main() -> None:
    """Answer the request on standard input."""
    # An artifact loads alone; a path that is wrong must not be looked up as a hub's.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    request = json.load(sys.stdin)
    answer: object
    try:
        paths = [Path(path) for path in request["images"]]
        answer = classify(Path(request["artifact_dir"]), paths, request.get("top_k") or DEFAULT_TOP_K)
    except ServiceError as error:
        answer = {"error": asdict(failure_of(error))}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
