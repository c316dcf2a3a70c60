"""Around all that a worker does: whatever happens, the run gets an outcome that says what."""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from services.common.failures import Failure
from services.common.specs import DeviceKind
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.failing import memory_overrun, rank_lost
from services.trainer.runs.records import StartPhase
from services.trainer.work.crew import Crew, Follower, fork_ranks
from services.trainer.work.ending import Ending
from services.trainer.work.events import EventWriter
from services.trainer.work.failures import asked_for_bytes, failure_from, is_about_a_peer, is_out_of_memory
from services.trainer.work.inputs import RunInputs, read_inputs
from services.trainer.work.lease import LeaseWatch
from services.trainer.work.memory import HOST, MemoryWatch, cap_data, group_members, lift_cap
from services.trainer.work.ranks import Ranks
from services.trainer.work.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)

# How long another rank waits with its own failure.
_BEFORE_WORD_S = 2.0


def work(path: Path) -> int:
    """Do all of the run's work; return the process's exit status."""
    _set_up_process()
    directory = RunDirectory(path)
    stop = StopRequest()
    inputs: RunInputs | None = None
    watch: MemoryWatch | None = None
    crew: Crew | None = None
    ending = Ending(directory, lambda: watch.peaks() if watch else ())
    # The one place that may catch everything: the run's outcome is all that anybody learns of it.
    try:
        stop.listen()
        inputs = read_inputs(directory)
        crew = _fork_ranks(directory, inputs)
        LeaseWatch(directory).start()
        watch = _watch(directory, inputs, ending)
        crew.watch(partial(_end_for_rank, inputs, crew.ranks, ending))
        _train(directory, inputs, watch, stop, crew.ranks, ending)
        return 0
    except Stopped:
        log.info("stopped as asked")
        ending.cancelled()
        return 0
    except BaseException as error:
        log.exception("the run failed")
        # Saying why takes memory too.
        lift_cap()
        if is_about_a_peer(error) and crew is not None:
            # Whose end it is about, and why, the watch on the ranks will have said by then.
            crew.wait_for_word()
        ending.failed(_failure(error, path, inputs, watch))
        return 1
    finally:
        if crew is not None:
            crew.end()


def _fork_ranks(directory: RunDirectory, inputs: RunInputs) -> Crew:
    """Fork the run's other ranks; those never return from here."""
    found = fork_ranks(inputs.device_count)
    if isinstance(found, Follower):
        _follow(directory, inputs, found)
    return found


def _follow(directory: RunDirectory, inputs: RunInputs, follower: Follower) -> NoReturn:
    """Do a rank's share of the training; what there is to tell of the run, the first rank tells."""
    status, ranks, watch = 1, follower.ranks, MemoryWatch(directory.usage_file, None, lambda used_bytes: None)
    # The first rank says the same.
    logging.getLogger().setLevel(logging.WARNING)
    try:
        _run(directory, inputs, EventWriter(Path(os.devnull)), watch, StopRequest(), ranks)
        status = 0
    except BaseException as error:
        log.exception("rank %d failed", ranks.number)
        lift_cap()
        failure = _failure(error, directory.path, inputs, watch)
        # The first rank, which fails with the same where all do, need not name one then.
        time.sleep(_BEFORE_WORD_S)
        follower.tell(failure)
    finally:
        logging.shutdown()
        # What the first rank is to clean up at its end is not cleaned up here.
        os._exit(status)


def _end_for_rank(
    inputs: RunInputs, ranks: Ranks, ending: Ending, number: int, told: Failure | None, end: str
) -> None:
    """End the run since rank `number` has ended before its work was done."""
    if told is None:
        failure = rank_lost(inputs.record.run, number, ranks.count, end)
    else:
        where = f" on {inputs.gpus[number]}" if number < len(inputs.gpus) else ""
        message = f"rank {number} of {ranks.count}, counted from 0{where}: {told.message}"
        failure = replace(told, message=message)
    if ending.failed(failure):
        log.error(failure.message)
        _end_group()


def _set_up_process() -> None:
    # Threads that wait for work spin a little and then sleep: those of two jobs on the same cores would
    # otherwise take turns in waiting for each other.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Its threads would not survive the fork of a loader.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # The libraries announce what they will change, once per import, to people who cannot change it.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # It looks for a faster kernel of a package that nobody installs, and computes with its own.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)


def _train(
    directory: RunDirectory,
    inputs: RunInputs,
    watch: MemoryWatch,
    stop: StopRequest,
    ranks: Ranks,
    ending: Ending,
) -> None:
    events = EventWriter(directory.events_file)
    # Asked before the process could hear it.
    if directory.cancel_file.exists():
        raise Stopped
    metrics = _run(directory, inputs, events, watch, stop, ranks)
    watch.sample()
    ending.succeeded(metrics)


def _run(
    directory: RunDirectory,
    inputs: RunInputs,
    events: EventWriter,
    watch: MemoryWatch,
    stop: StopRequest,
    ranks: Ranks,
) -> Mapping[str, float]:
    """Do what every rank does; return the run's figures."""
    events.phase(StartPhase.IMPORTING)
    from services.trainer.recipes import recipe_for
    from services.trainer.work.job import run_job

    # Before the cap: what its libraries take is no part of the job's own memory.
    recipe_for(inputs.resolved.spec.task)
    reserved_bytes = inputs.reserved_bytes(HOST)
    if reserved_bytes is not None:
        cap_data(reserved_bytes)
    ranks.join(directory.path, inputs.record.device is DeviceKind.CUDA)
    return run_job(directory, inputs, events, watch, stop, ranks)


def _watch(directory: RunDirectory, inputs: RunInputs, ending: Ending) -> MemoryWatch:
    limit_bytes = inputs.reserved_bytes(HOST)

    def overrun(used_bytes: int) -> None:
        failure = memory_overrun(HOST, inputs.record.predicted_bytes, limit_bytes or 0, used_bytes)
        # Where the main thread has said how the run ended, it is about to end by itself.
        if ending.failed(failure):
            log.error(failure.message)
            _end_group()

    watch = MemoryWatch(directory.usage_file, limit_bytes, overrun)
    watch.start()
    return watch


def _end_group() -> None:
    """End this process and its children at once: memory is given back before anything else is done."""
    for pid in group_members():
        if pid != os.getpid():
            os.kill(pid, signal.SIGKILL)
    os._exit(1)


def _failure(
    error: BaseException, path: Path, inputs: RunInputs | None, watch: MemoryWatch | None
) -> Failure:
    if inputs is None or watch is None or not is_out_of_memory(error):
        return failure_from(error, path)
    watch.sample()
    # A rank's own GPU is watched right after the host; its allocator names itself.
    device = watch.peaks()[:2][-1] if "CUDA" in str(error) else watch.peaks()[0]
    limit_bytes = inputs.reserved_bytes(device.device) or 0
    actual_bytes = device.peak_bytes + asked_for_bytes(error)
    return memory_overrun(device.device, inputs.record.predicted_bytes, limit_bytes, actual_bytes)
