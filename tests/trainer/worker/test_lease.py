"""A worker whose service is gone keeps to the end that the service named."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.lease import boottime_s
from services.trainer.runs.directory import RunDirectory
from services.trainer.work.stopping import Stopped, StopRequest
from tests.trainer.specs import SPEC, TRAINING, resolved
from tests.trainer.worker.rundirs import LABELS, events, outcome, write_run
from tests.trainer.worker.warm import Warm

LONG = replace(SPEC, training=replace(TRAINING, num_train_epochs=10_000.0))


def test_worker_stops_with_a_checkpoint_when_its_lease_has_ended(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    directory = write_run(tmp_path / "run", resolved(LONG, shapes, LABELS), shapes)
    directory.write_keepalive(boottime_s() + 1000)
    with workers.start(directory) as worker:
        worker.wait_until(lambda: len(events(directory, "progress")) >= 5)
        directory.write_keepalive(boottime_s() - 1)
        worker.wait()
    assert outcome(directory)["state"] == "cancelled"
    told = events(directory, "checkpoint")[-1]
    assert told["step"] == events(directory, "progress")[-1]["step"]
    assert (directory.path / str(told["path"])).is_dir()
    assert "lease has ended" in directory.log_file.read_text()


def test_worker_that_begins_after_the_end_of_its_lease_ends_at_once(
    workers: Warm, shapes: Path, tmp_path: Path
) -> None:
    directory = write_run(tmp_path / "run", resolved(LONG, shapes, LABELS), shapes)
    directory.write_keepalive(boottime_s() - 1)
    with workers.start(directory) as worker:
        worker.wait()
    assert outcome(directory)["state"] == "cancelled"
    assert not directory.artifact.exists()


def test_second_signal_does_not_disturb_the_way_out() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    try:
        stop.listen()
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.asked


@pytest.mark.parametrize(
    ("text", "until_s"), [(None, None), ("", None), ("12.5\n", 12.5), ("1e3", 1000.0), ("soon", None)]
)
def test_a_keepalive_names_an_end_or_none(tmp_path: Path, text: str | None, until_s: float | None) -> None:
    directory = RunDirectory(tmp_path)
    if text is not None:
        directory.keepalive.write_text(text)
    assert directory.keepalive_until() == until_s


@pytest.mark.parametrize("until_s", [None, 0.1 + 0.2, 123456789.123456789])
def test_a_keepalive_is_read_as_it_was_written(tmp_path: Path, until_s: float | None) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_keepalive(1.0)
    directory.write_keepalive(until_s)
    assert directory.keepalive_until() == until_s
    assert [path.name for path in tmp_path.iterdir()] == ["keepalive"]
