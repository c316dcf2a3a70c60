import io
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from services.common.specs import Augmentation, ImageOptions
from services.trainer.work.errors import BadItem
from services.trainer.work.images.archive import Entry, ImageArchive
from services.trainer.work.images.augment import augmenter, draw_seed
from services.trainer.work.images.examples import ImageExamples
from services.trainer.work.images.pixels import ImageShape, decode
from tests.trainer.worker.rundirs import png, write_zip

pytestmark = pytest.mark.filterwarnings("ignore")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def declaring(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that declares a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_pictures_of_every_mode_become_rgb(mode: str) -> None:
    assert decode(encoded(Image.new(mode, (5, 3))), "x").shape == (3, 3, 5)


def test_sixteen_bits_are_scaled_not_cut() -> None:
    picture = decode(encoded(Image.new("I;16", (2, 2), 0x8000)), "x")
    assert picture.unique().tolist() == [0x80]


def test_picture_is_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue(), "x").shape == (3, 5, 3)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"text", "none of PNG"),
        (png("bar", 1)[:-30], "damaged"),
        (declaring(20_000, 20_000), "more than the"),
        (declaring(9_000, 12_000), "more than the"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "none of PNG"),
    ],
)
def test_what_is_no_sound_picture_is_named(data: bytes, detail: str) -> None:
    with pytest.raises(BadItem, match=detail) as caught:
        decode(data, "a/1.png")
    assert caught.value.item == "a/1.png"


def test_normalisation_is_the_sources() -> None:
    settings = json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    shape = ImageShape.of_source(8, settings)
    white = shape.prepare(torch.full((3, 20, 30), 255, dtype=torch.uint8))
    assert white[:, 0, 0].tolist() == pytest.approx([0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6])


def test_plain_processor_prepares_pictures_just_so(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    shape = ImageShape(16)
    shape.save(tmp_path)
    picture = Image.open(io.BytesIO(png("ring", 3)))
    expected = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(shape.prepare(decode(png("ring", 3), "x")), expected, atol=1e-6)
    assert ImageShape.of_artifact(tmp_path) == shape


@pytest.mark.parametrize("augmentation", list(Augmentation))
def test_every_augmentation_gives_what_the_model_takes(augmentation: Augmentation) -> None:
    augment = augmenter(ImageOptions(augmentations=(augmentation,)), ImageShape(16))
    result = augment(decode(png("disc", 2), "x"))
    assert result.shape == (3, 16, 16)
    assert result.dtype == torch.float32


def test_no_augmentations_leave_the_picture_as_it_is() -> None:
    shape, picture = ImageShape(16), decode(png("disc", 2), "x")
    assert torch.equal(augmenter(ImageOptions(no_augmentations=True), shape)(picture), shape.prepare(picture))


def test_augmentation_depends_on_seed_epoch_and_index_alone() -> None:
    assert draw_seed(1, 2, 3) == draw_seed(1, 2, 3)
    assert (
        len({draw_seed(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in range(9)})
        == 36
    )


def test_drawing_an_example_leaves_the_global_generator_where_it_was(tmp_path: Path) -> None:
    archive = ImageArchive(write_zip(tmp_path / "a.zip", ("bar",), 2))
    options = ImageOptions(augmentations=(Augmentation.RANDOM_AFFINE,))
    entries = [Entry("bar/000.png", "bar"), Entry("bar/001.png", "bar")]
    examples = ImageExamples(archive, entries, ("bar",), augmenter(options, ImageShape(16)), seed=1)
    before = torch.get_rng_state()
    first, again = examples[0]["pixel_values"], examples[0]["pixel_values"]
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    examples.epoch = 1
    assert not torch.equal(first, examples[0]["pixel_values"])
