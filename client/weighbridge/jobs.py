"""Training jobs: what is known of them and what can be done with them."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weighbridge import _download, following
from weighbridge._link import Link
from weighbridge._pages import PAGE_SIZE, listed
from weighbridge._patience import Waiting
from weighbridge._predict import Classifications, Image, classify
from weighbridge._upload import Progress
from weighbridge.chat import Chat, ChatOptions
from weighbridge.common.v1.artifacts_pb2 import Checkpoint
from weighbridge.exceptions import JobCancelled, JobEnded, JobFailed, JobRejected, WrongState
from weighbridge.exporting import Form, chosen, convert, find_converter
from weighbridge.following import FINAL, PATIENCE_S, State
from weighbridge.gateway.v1.resources_pb2 import JobEvent, TrainingJob
from weighbridge.gateway.v1.service_pb2 import (
    CancelTrainingJobRequest,
    DeleteTrainingJobRequest,
    GetTrainingJobRequest,
    ListTrainingCheckpointsRequest,
    ListTrainingJobsRequest,
    ResumeTrainingJobRequest,
)
from weighbridge.names import job_name, project_name, short
from weighbridge.trainer.v1.resources_pb2 import LogLine

_ENDED: Mapping[int, type[JobEnded]] = {
    State.STATE_FAILED: JobFailed,
    State.STATE_CANCELLED: JobCancelled,
    State.STATE_REJECTED: JobRejected,
}


def state_name(state: State.ValueType) -> str:
    """Return `RUNNING` for `STATE_RUNNING`."""
    return State.Name(state).removeprefix("STATE_")


class Job:
    """A training job: `message` is the job as it was last seen, in the contract's terms."""

    def __init__(self, jobs: "Jobs", message: TrainingJob) -> None:
        self._jobs = jobs
        self.message = message

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def name(self) -> str:
        """`projects/{project}/trainingJobs/{job}`."""
        return self.message.name

    @property
    def id(self) -> str:
        """The short name."""
        return short(self.message.name)

    @property
    def state(self) -> str:
        """The state's short name, such as `RUNNING`."""
        return state_name(self.message.state)

    @property
    def done(self) -> bool:
        """Whether the state is final: SUCCEEDED, FAILED, CANCELLED or REJECTED."""
        return self.message.state in FINAL

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the last evaluation, such as `accuracy`."""
        return dict(self.message.metrics)

    def refresh(self) -> "Job":
        """Read the job again and return it."""
        self.message = self._jobs.get(self.name).message
        return self

    def watch(self, cursor: str = "") -> Iterator[JobEvent]:
        """Yield what happens to the job until it is done; see `Jobs.watch`."""
        for event in self._jobs.watch(self.name, cursor):
            self._see(event)
            yield event

    def wait(
        self, timeout_s: float | None = None, on_event: Callable[[JobEvent], None] | None = None
    ) -> "Job":
        """Wait until the job succeeded and return it.

        Raises:
            JobFailed, JobCancelled, JobRejected: it ended otherwise.
            DeadlineExceeded: it has not ended after `timeout_s` seconds; it goes on.
        """
        for event in self._jobs.watch(self.name, timeout_s=timeout_s):
            self._see(event)
            if on_event is not None:
                on_event(event)
        if self.message.state in _ENDED:
            raise _ENDED[self.message.state](self)
        return self

    def _see(self, event: JobEvent) -> None:
        if event.HasField("job"):
            self.message = event.job

    def cancel(self) -> "Job":
        """Ask the job to stop and return it."""
        self.message = self._jobs.cancel(self.name).message
        return self

    def resume(self) -> "Job":
        """Queue the failed or cancelled job again, from its last checkpoint, and return it."""
        self.message = self._jobs.resume(self.name).message
        return self

    def download(self, directory: str | Path | None = None, *, progress: Progress | None = None) -> Path:
        """Download the artifact and return its directory; see `Jobs.download`."""
        return self._jobs.download(self.name, directory, progress=progress)

    def export(self, directory: str | Path, form: Form = Form.MERGED, **options: Any) -> Path:
        """Download what the job made in the form that others take it in; see `Jobs.export`."""
        return self._jobs.export(self.name, directory, form, **options)

    def predict(self, images: Iterable[Image], top_k: int = 3) -> Classifications:
        """Classify pictures with the job's model; see `Jobs.predict`."""
        return self._jobs.predict(self.name, images, top_k)

    def chat(self, options: ChatOptions | None = None) -> Chat:
        """Return a chat with the job's language model; `with` opens it. See `Chat`."""
        return self._jobs.chat(self.name, options)


class Jobs:
    """The training jobs of a project; a job is given by its short or full name."""

    def __init__(self, link: Link, project: str) -> None:
        self._link = link
        self._project = project

    def get(self, job: str) -> Job:
        """Return a job. Raises NotFound."""
        return Job(
            self,
            self._link.call(self._link.training.GetTrainingJob, GetTrainingJobRequest(name=self._name(job))),
        )

    def list(
        self,
        *,
        states: Sequence[State.ValueType] = (),
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Yield the project's jobs, newest first; only those in one of `states` and with all `labels`."""

        def request(token: str) -> ListTrainingJobsRequest:
            parent = project_name(self._project)
            return ListTrainingJobsRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token, states=states, labels=labels or {}
            )

        return listed(
            lambda token: self._link.call(self._link.training.ListTrainingJobs, request(token)),
            lambda page: (Job(self, message) for message in page.training_jobs),
            limit,
        )

    def watch(
        self,
        job: str,
        cursor: str = "",
        *,
        timeout_s: float | None = None,
        patience_s: float = PATIENCE_S,
        on_wait: Waiting | None = None,
    ) -> Iterator[JobEvent]:
        """Yield the job as it is, then every event after `cursor`, across attempts, until a final state.

        A lost connection is taken up again after the last event seen: nothing is missed, nothing comes twice.
        `on_wait` is told why the platform cannot be reached; after `patience_s` seconds of that it is raised.

        Raises:
            DeadlineExceeded: the job has not ended after `timeout_s` seconds.
        """
        return following.watch(
            self._link, self._name(job), cursor, timeout_s=timeout_s, patience_s=patience_s, on_wait=on_wait
        )

    def logs(self, job: str, *, attempt: int = 0, offset: int = 0, follow: bool = False) -> Iterator[LogLine]:
        """Yield the lines that an attempt's process printed (0: the newest attempt), from a byte offset.

        With `follow`, until the attempt has ended; a lost connection is taken up after the last line seen.
        """
        return following.logs(self._link, self._name(job), attempt=attempt, offset=offset, follow=follow)

    def checkpoints(self, job: str) -> Sequence[Checkpoint]:
        """Return the job's committed checkpoints, oldest first."""
        request = ListTrainingCheckpointsRequest(parent=self._name(job))
        return self._link.call(self._link.training.ListTrainingCheckpoints, request).checkpoints

    def cancel(self, job: str) -> Job:
        """Ask a job to stop and return it; one that is done is returned as it is."""
        request = CancelTrainingJobRequest(name=self._name(job))
        return Job(self, self._link.call(self._link.training.CancelTrainingJob, request))

    def resume(self, job: str) -> Job:
        """Queue a failed or cancelled job again, from its last checkpoint. Raises WrongState."""
        request = ResumeTrainingJobRequest(name=self._name(job))
        return Job(self, self._link.call(self._link.training.ResumeTrainingJob, request))

    def delete(self, job: str) -> None:
        """Remove a job that is done, with its checkpoints and artifact. Raises WrongState and InUse."""
        self._link.call(self._link.training.DeleteTrainingJob, DeleteTrainingJobRequest(name=self._name(job)))

    def download(
        self, job: str, directory: str | Path | None = None, *, progress: Progress | None = None
    ) -> Path:
        """Download a job's artifact into a directory (the job's id, if none is given) and return that.

        A second call fetches only what is missing. Every file is verified and is there whole or not at all.

        Raises:
            WrongState: the job has no artifact.
            CorruptDownload, UnsafePath: what arrived is not what it should be.
        """
        found = self._with_artifact(job)
        into = Path(directory if directory is not None else found.id)
        files = {entry.path: entry for entry in found.message.artifact.files}
        _download.download(self._link, found.name, files, into, progress or _ignore)
        return into

    def export(
        self,
        job: str,
        directory: str | Path,
        form: Form = Form.MERGED,
        *,
        converter: str | Path | None = None,
        outtype: str = "auto",
        progress: Progress | None = None,
    ) -> Path:
        """Download what a job made in the form that others take it in, and return where it is.

        MERGED: the whole model, for transformers. ADAPTER: the adapter with the tokenizer, for peft on its
        base; nothing else is downloaded. GGUF: one file, `{job}.gguf` in the directory, which llama.cpp's
        converter makes here, in numbers of `outtype`; `exporting.find_converter` says where that is.

        Raises:
            WrongState: the job has no artifact.
            NotExportable: the artifact does not hold that.
            NoConverter, ConversionFailed: there is no converter, or it does not take the model.
            CorruptDownload, UnsafePath: what arrived is not what it should be.
        """
        # Before gigabytes are fetched for it.
        command = find_converter(converter) if form is Form.GGUF else []
        found, into = self._with_artifact(job), Path(directory)
        files = chosen(found.id, found.message.artifact, form)
        if form is not Form.GGUF:
            _download.download(self._link, found.name, files, into, progress or _ignore)
            return into
        # Kept where the conversion fails: another try then has it already.
        model = into / f".{found.id}-merged"
        _download.download(self._link, found.name, files, model, progress or _ignore)
        converted = convert(command, model, into / f"{found.id}.gguf", outtype)
        shutil.rmtree(model)
        return converted

    def predict(self, job: str, images: Iterable[Image], top_k: int = 3) -> Classifications:
        """Classify pictures (paths or encoded bytes) with a finished job's model, in their order.

        Raises:
            WrongState: the job has no model yet.
            TooLarge: a picture does not fit into one message.
            OSError: a file cannot be read.
        """
        return classify(self._link, self._name(job), images, top_k)

    def _with_artifact(self, job: str) -> Job:
        found = self.get(job)
        if not found.message.artifact.files:
            text = f"{found.name} is {found.state} and has no artifact: only a job that succeeded has one"
            raise WrongState("WRONG_STATE", text, {"resource": found.name, "state": found.state})
        return found

    def chat(self, job: str, options: ChatOptions | None = None) -> Chat:
        """Return a chat with the language model that a job made; `with` opens it. See `Chat`."""
        return Chat(self._link, (options or ChatOptions()).opening(self._name(job)))

    def _name(self, job: str) -> str:
        return job_name(self._project, job)


def _ignore(done: int, total: int) -> None:
    pass
