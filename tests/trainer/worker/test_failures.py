"""What errors of all kinds mean to the one who ran the job."""

import errno
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from services.common.errors import InvalidSpec
from services.trainer.work.errors import BadCheckpoint, BadItem, Diverged, FetchFailed
from services.trainer.work.failures import asked_for_bytes, failure_from, is_out_of_memory

HERE = Path()
CPU_FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
)
GPU_FULL = RuntimeError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB"
)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), CPU_FULL, GPU_FULL, RuntimeError("can't start new thread"), OSError(errno.ENOMEM, "x")],
)
def test_lack_of_memory_is_known_in_all_its_words(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(errno.EIO, "x")]
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_what_an_allocation_asked_for_is_read_from_its_error() -> None:
    assert asked_for_bytes(CPU_FULL) == 8 << 30
    assert asked_for_bytes(GPU_FULL) == 5 << 29
    assert asked_for_bytes(MemoryError()) == 0


@pytest.mark.parametrize(
    ("error", "reason", "metadata"),
    [
        (BadItem.of("a/1.png", "it is damaged"), "BAD_DATA", {"item": "a/1.png", "detail": "it is damaged"}),
        (Diverged(7), "DIVERGED", {"step": "7"}),
        (BadCheckpoint(4, "gone"), "BAD_CHECKPOINT", {"step": "4", "detail": "gone"}),
        (FetchFailed("m", "gone"), "FETCH_FAILED", {"item": "m", "detail": "gone"}),
        (InvalidSpec("a", 1, "2"), "INVALID_SPEC", {"field": "a", "value": "1", "limit": "2"}),
        (ZeroDivisionError("by zero"), "TRAINING_ERROR", {"type": "ZeroDivisionError", "detail": "by zero"}),
    ],
)
def test_each_error_has_its_reason_and_its_keys(
    error: BaseException, reason: str, metadata: dict[str, str]
) -> None:
    failure = failure_from(error, HERE)
    assert (failure.reason, dict(failure.metadata)) == (reason, metadata)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_full_disk_is_known_whoever_writes(error: BaseException, tmp_path: Path) -> None:
    failure = failure_from(error, tmp_path)
    assert failure.reason == "DISK_FULL"
    assert failure.metadata["path"] == str(tmp_path)
    assert int(failure.metadata["free_bytes"]) > 0


def test_bad_item_survives_the_way_a_loader_passes_errors_on() -> None:
    try:
        raise BadItem.of('odd"[name]\n.png', "it is [damaged]")
    except BadItem:
        text = f"Caught BadItem in DataLoader worker process 0.\nOriginal {traceback.format_exc()}"
    passed_on = BadItem(text)
    assert (passed_on.item, passed_on.detail) == ('odd"[name]\n.png', "it is [damaged]")


GROWTH = """
import multiprocessing, os
from services.trainer.work.memory import GroupMeter, group_members

def grow():
    return bytearray(os.urandom(1) * (64 << 20))

group = GroupMeter()
before = group.measure()
"""
OWN_GROWTH = """
grown = grow()
assert group.measure() - before > 48 << 20
"""
CHILDS_GROWTH = """
fork = multiprocessing.get_context("fork")
grown, done = fork.Event(), fork.Event()

def child():
    kept = grow()
    grown.set()
    done.wait()

process = fork.Process(target=child)
process.start()
try:
    grown.wait(30)
    assert process.pid in group_members()
    assert group.measure() - before > 48 << 20
finally:
    done.set()
    process.join()
"""


@pytest.mark.parametrize("growth", [OWN_GROWTH, CHILDS_GROWTH], ids=["own", "childs"])
def test_growth_of_the_group_is_seen_between_two_exact_measurements(growth: str) -> None:
    # In a process group of its own, where no other test's processes are counted.
    command = [sys.executable, "-c", GROWTH + growth]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
