import json
from pathlib import Path

import pytest

from services.common.lease import Lease, boottime_s


def test_without_a_word_of_it_a_lease_lasts_for_ever_and_needs_no_file(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "lease.json")
    lease.renew(boottime_s(), None)
    assert (lease.left_s, lease.ended) == (None, False)
    assert list(tmp_path.iterdir()) == []


def test_a_lease_counts_from_the_sending(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "lease.json")
    lease.renew(boottime_s() - 100, 900)
    assert lease.left_s is not None
    assert 0 < lease.left_s <= 800
    assert not lease.ended
    lease.renew(boottime_s() - 100, 99)
    assert (lease.left_s, lease.ended) == (0, True)


@pytest.mark.parametrize("length_s", [900.0, 0.0, None])
def test_a_lease_is_found_again(tmp_path: Path, length_s: float | None) -> None:
    lease = Lease(tmp_path / "lease.json")
    lease.renew(boottime_s(), 5.0)
    lease.renew(boottime_s(), length_s)
    assert Lease(tmp_path / "lease.json").end_s == lease.end_s


def test_a_lease_of_an_earlier_boot_is_none(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"boot_id": "the one before", "end_s": 1.0}))
    assert Lease(path).end_s is None


def test_a_lease_that_cannot_be_written_counts_all_the_same(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "gone" / "lease.json")
    with pytest.raises(OSError, match="gone"):
        lease.renew(boottime_s(), 0.0)
    assert lease.ended
    lease.renew(boottime_s(), None)
    assert not lease.ended


def test_a_damaged_lease_is_not_taken_for_none(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="JSON"):
        Lease(path)
