from collections import Counter

import pytest

from services.trainer.work.errors import BadItem
from services.trainer.work.images.archive import Entry
from services.trainer.work.images.split import stratified_split

ENTRIES = [
    Entry(f"{label}/{number}.png", label) for label, count in (("a", 40), ("b", 7)) for number in range(count)
]


def test_every_label_gives_its_share() -> None:
    split = stratified_split(ENTRIES, 0.2, seed=1)
    assert Counter(entry.label for entry in split.held_out) == {"a": 8, "b": 1}
    assert sorted((*split.train, *split.held_out), key=lambda e: e.name) == sorted(
        ENTRIES, key=lambda e: e.name
    )


def test_split_depends_on_seed_and_names_alone() -> None:
    assert stratified_split(ENTRIES, 0.2, 1) == stratified_split(ENTRIES[::-1], 0.2, 1)
    assert stratified_split(ENTRIES, 0.2, 1) != stratified_split(ENTRIES, 0.2, 2)


def test_another_labels_images_change_nothing() -> None:
    more = [*ENTRIES, Entry("b/new.png", "b")]
    alone, together = stratified_split(ENTRIES, 0.2, 1), stratified_split(more, 0.2, 1)
    assert [e for e in alone.held_out if e.label == "a"] == [e for e in together.held_out if e.label == "a"]


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_no_label_is_without_images_on_either_side(share: float) -> None:
    split = stratified_split(ENTRIES, share, 1)
    assert {entry.label for entry in split.train} == {entry.label for entry in split.held_out} == {"a", "b"}


def test_nothing_is_held_out_when_nothing_is_asked_for() -> None:
    assert stratified_split([Entry("a/1.png", "a")], 0.0, 1).held_out == ()


def test_single_image_cannot_be_on_both_sides() -> None:
    with pytest.raises(BadItem) as caught:
        stratified_split([Entry("a/1.png", "a")], 0.1, 1)
    assert caught.value.item == "a"
