import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.work.text.order import LongestFirst
from services.trainer.work.text.packing import best_fit_decreasing
from services.trainer.work.text.split import held_out_below, row_key

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(0, 1000), st.integers(1, 20), st.integers(0, 3))
def test_every_row_comes_once_in_an_epoch_and_the_longest_first_in_the_first(
    lengths: list[int], seed: int, first: int, epoch: int
) -> None:
    order = LongestFirst(lengths, seed, first)
    order.set_epoch(epoch)
    positions = list(order)
    assert sorted(positions) == list(range(len(lengths)))
    if epoch == 0:
        begun = [lengths[position] for position in positions[:first]]
        assert begun == sorted(lengths, reverse=True)[: len(begun)]
    assert positions == list(order)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = set()
    for seed in (1, 2):
        order = LongestFirst([3] * 30, seed, 4)
        for epoch in (0, 1, 2):
            order.set_epoch(epoch)
            orders.add(tuple(order))
    assert len(orders) == 6


@given(LENGTHS)
def test_packing_keeps_every_row_and_overfills_none(lengths: list[int]) -> None:
    bins = best_fit_decreasing(lengths, 50)
    assert sorted(position for each in bins for position in each) == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in each) <= 50 for each in bins)
    # No two could have been one.
    sums = sorted(sum(lengths[position] for position in each) for each in bins)
    assert len(sums) < 2 or sums[0] + sums[1] > 50


def test_packing_is_as_close_as_that_of_trl() -> None:
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    draw = np.random.default_rng(1)
    lengths = draw.integers(1, 64, 300).tolist()
    rows = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    theirs = pack_dataset(rows, 64, "bfd", {"keep_in_memory": True})
    assert len(best_fit_decreasing(lengths, 64)) == len(theirs)


def keys(rows: list[str], seed: int = 7) -> np.ndarray:
    return np.array([row_key({"text": row}, seed) for row in rows], dtype=np.uint64)


def test_share_of_rows_that_is_held_out_depends_on_seed_and_content_alone() -> None:
    rows = [f"row {number}" for number in range(200)]
    found = keys(rows)
    held_out = found <= held_out_below(found, 0.1)
    assert held_out.sum() == 20
    backwards = keys(rows[::-1])
    assert (backwards <= held_out_below(backwards, 0.1)).tolist() == held_out[::-1].tolist()
    other = keys(rows, seed=8)
    assert (other <= held_out_below(other, 0.1)).tolist() != held_out.tolist()


def test_copy_of_a_training_row_is_not_held_out_as_if_it_were_new() -> None:
    found = keys([f"row {number % 20}" for number in range(200)])
    held_out = found <= held_out_below(found, 0.1)
    assert 0 < held_out.sum() < 200
    assert not set(found[held_out].tolist()) & set(found[~held_out].tolist())


def test_something_is_always_left_to_train_on_and_held_out() -> None:
    for share in (0.01, 0.5, 0.9, 0.99):
        found = keys(["a", "b", "c"])
        assert 0 < (found <= held_out_below(found, share)).sum() < 3
    assert held_out_below(keys(["a"]), 0.0) == -1
