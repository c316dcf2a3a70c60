"""Around all that a worker does: whatever happens, the run gets an outcome that says what."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path

from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.records import StartPhase
from services.trainer.work.ending import Ending
from services.trainer.work.events import EventWriter
from services.trainer.work.failures import asked_for_bytes, failure_from, is_out_of_memory, memory_overrun
from services.trainer.work.inputs import RunInputs, read_inputs
from services.trainer.work.lease import LeaseWatch
from services.trainer.work.memory import HOST, MemoryWatch, cap_data, group_members, lift_cap
from services.trainer.work.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)


def work(path: Path) -> int:
    """Do all of the run's work; return the process's exit status."""
    _set_up_process()
    directory = RunDirectory(path)
    stop = StopRequest()
    inputs: RunInputs | None = None
    watch: MemoryWatch | None = None
    ending = Ending(directory, lambda: watch.peaks() if watch else ())
    # The one place that may catch everything: the run's outcome is all that anybody learns of it.
    try:
        stop.listen()
        LeaseWatch(directory).start()
        inputs = read_inputs(directory)
        watch = _watch(directory, inputs, ending)
        _train(directory, inputs, watch, stop, ending)
        return 0
    except Stopped:
        log.info("stopped as asked")
        ending.cancelled()
        return 0
    except BaseException as error:
        log.exception("the run failed")
        # Saying why takes memory too.
        lift_cap()
        _fail(error, path, inputs, watch, ending)
        return 1


def _set_up_process() -> None:
    # Threads that wait for work spin a little and then sleep: those of two jobs on the same cores would
    # otherwise take turns in waiting for each other.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # The libraries announce what they will change, once per import, to people who cannot change it.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)


def _train(
    directory: RunDirectory, inputs: RunInputs, watch: MemoryWatch, stop: StopRequest, ending: Ending
) -> None:
    events = EventWriter(directory.events_file)
    # Asked before the process could hear it.
    if directory.cancel_file.exists():
        raise Stopped
    events.phase(StartPhase.IMPORTING)
    from services.trainer.work.job import run_job

    reserved_bytes = inputs.reserved_bytes(HOST)
    if reserved_bytes is not None:
        cap_data(reserved_bytes)
    metrics = run_job(directory, inputs, events, watch, stop)
    watch.sample()
    ending.succeeded(metrics)


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


def _fail(
    error: BaseException, path: Path, inputs: RunInputs | None, watch: MemoryWatch | None, ending: Ending
) -> None:
    if inputs is None or watch is None or not is_out_of_memory(error):
        ending.failed(failure_from(error, path))
        return
    watch.sample()
    # The GPU is watched last; its allocator names itself.
    device = watch.peaks()[-1] if "CUDA" in str(error) else watch.peaks()[0]
    limit_bytes = inputs.reserved_bytes(device.device) or 0
    actual_bytes = device.peak_bytes + asked_for_bytes(error)
    ending.failed(memory_overrun(device.device, inputs.record.predicted_bytes, limit_bytes, actual_bytes))
