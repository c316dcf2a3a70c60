"""What the hub's library says of a download, counted."""

from types import SimpleNamespace

from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

from services.trainer.hubcache import counting_bar, free_bytes, missing_bytes


def test_bytes_that_come_through_xet_count_once_not_for_network_and_disk_both() -> None:
    counted: list[int] = []
    with XetDownloadProgressReporter(
        reconstruction_desc="file",
        total=10,
        log_level=30,
        name="xet",
        tqdm_class=counting_bar(counted.append),
    ) as reporter:
        for done in (4, 10):
            report = SimpleNamespace(
                total_bytes_completed=done,
                total_transfer_bytes_completed=done,
                total_bytes=10,
                total_bytes_completion_rate=1.0,
                total_transfer_bytes_completion_rate=1.0,
            )
            reporter.update_progress(report)
    assert sum(counted) == 10


def test_a_cache_that_is_not_there_yet_lacks_everything_and_has_its_disks_room() -> None:
    assert missing_bytes("lab/never", "0" * 40, [("a.safetensors", 3), ("b.safetensors", 4)]) == 7
    assert free_bytes() > 0
