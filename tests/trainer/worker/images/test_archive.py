import stat
import zipfile
from pathlib import Path

import pytest

from services.trainer.work.errors import BadItem
from services.trainer.work.images.archive import Entry, ImageArchive, of_labels


def archive(path: Path, *names: str) -> ImageArchive:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"data")
    return ImageArchive(path)


def test_labels_are_the_folders_that_images_stand_in(tmp_path: Path) -> None:
    found = archive(tmp_path / "a.zip", "b/2.png", "a/1.png", "top/c/3.png").entries()
    assert found == [Entry("a/1.png", "a"), Entry("b/2.png", "b"), Entry("top/c/3.png", "c")]


def test_what_systems_leave_in_folders_is_passed_over(tmp_path: Path) -> None:
    names = ("a/1.png", "a/.DS_Store", "__MACOSX/a/1.png", "b/Thumbs.db", "b/")
    assert archive(tmp_path / "a.zip", *names).entries() == [Entry("a/1.png", "a")]


@pytest.mark.parametrize("name", ["../a/1.png", "/a/1.png", "a/../../1.png", "a\\b/1.png", "1.png"])
def test_name_that_is_no_plain_file_in_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadItem) as caught:
        archive(tmp_path / "a.zip", name).entries()
    assert caught.value.item == name


def test_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/1.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(BadItem, match="link"):
        ImageArchive(tmp_path / "a.zip").entries()


def test_damaged_bytes_are_named(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.zip", "a/1.png")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"data")] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BadItem, match="unpacked") as caught:
        made.read("a/1.png")
    assert caught.value.item == "a/1.png"


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"none")
    with pytest.raises(BadItem, match="zip"):
        ImageArchive(tmp_path / "a.zip").entries()


ENTRIES = [Entry("a/1.png", "a"), Entry("b/1.png", "b"), Entry("c/1.png", "c")]


def test_chosen_labels_leave_the_others_out() -> None:
    assert of_labels(ENTRIES, ("c", "a"), only_these=True) == [ENTRIES[0], ENTRIES[2]]


def test_label_that_nobody_resolved_is_refused() -> None:
    with pytest.raises(BadItem, match="none of the labels"):
        of_labels(ENTRIES, ("a", "b"), only_these=False)


def test_label_without_images_is_refused() -> None:
    with pytest.raises(BadItem) as caught:
        of_labels(ENTRIES, ("a", "d"), only_these=True)
    assert caught.value.item == "d"
