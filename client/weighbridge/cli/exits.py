"""How the command ends, for scripts. `weighbridge --help` prints this table."""

from enum import IntEnum

from weighbridge import exceptions as e


class Exit(IntEnum):
    """Exit status of the command."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    MUST_WAIT = 4
    JOB_FAILED = 5
    JOB_CANCELLED = 6
    NOT_FOUND = 7
    DENIED = 8
    UNAVAILABLE = 9
    CONFLICT = 10
    LIMIT = 11
    INTERRUPTED = 130


class CommandError(e.WeighbridgeError):
    """A command cannot do what it was asked for; `status` is how it ends."""

    def __init__(self, message: str, status: Exit) -> None:
        super().__init__(message)
        self.status = status


MEANINGS = {
    Exit.OK: "done; with `check`: the job fits now",
    Exit.UNEXPECTED: "unexpected: a defect, here or in the platform",
    Exit.USAGE: "the command line, the spec or the data is invalid",
    Exit.DOES_NOT_FIT: "the job fits no node: `check` or `chat` says so, or a watched job was rejected",
    Exit.MUST_WAIT: "`check`, `chat`: the job fits, but must wait for memory",
    Exit.JOB_FAILED: "the watched job failed",
    Exit.JOB_CANCELLED: "the watched job was cancelled",
    Exit.NOT_FOUND: "there is no such job, data set or node",
    Exit.DENIED: "no valid token, or no permission",
    Exit.UNAVAILABLE: "the platform is not running, not reachable, or too slow",
    Exit.CONFLICT: "exists already, is in use, or is in a state that does not allow it",
    Exit.LIMIT: "a quota, a size limit, or a full disk",
    Exit.INTERRUPTED: "Ctrl-C; a watched job goes on",
}

# The first class that matches decides.
_OF_ERROR: tuple[tuple[type[e.WeighbridgeError], Exit], ...] = (
    (e.SpecError, Exit.USAGE),
    (e.InvalidRequest, Exit.USAGE),
    (e.NotConfigured, Exit.UNAVAILABLE),
    (e.NotExportable, Exit.CONFLICT),
    (e.NoConverter, Exit.USAGE),
    (e.JobRejected, Exit.DOES_NOT_FIT),
    (e.JobFailed, Exit.JOB_FAILED),
    (e.JobCancelled, Exit.JOB_CANCELLED),
    (e.NotFound, Exit.NOT_FOUND),
    (e.Unauthenticated, Exit.DENIED),
    (e.PermissionDenied, Exit.DENIED),
    (e.Unavailable, Exit.UNAVAILABLE),
    (e.DeadlineExceeded, Exit.UNAVAILABLE),
    (e.AlreadyExists, Exit.CONFLICT),
    (e.InsufficientDisk, Exit.LIMIT),
    (e.MustWait, Exit.MUST_WAIT),
    (e.DoesNotFit, Exit.DOES_NOT_FIT),
    (e.WrongState, Exit.CONFLICT),
    (e.LimitExceeded, Exit.LIMIT),
)


def exit_of(error: e.WeighbridgeError) -> Exit:
    """Return how the command ends after `error`."""
    if isinstance(error, CommandError):
        return error.status
    return next((status for kind, status in _OF_ERROR if isinstance(error, kind)), Exit.UNEXPECTED)


def table() -> str:
    """Return the meanings as text for the help."""
    return "\n".join(f"  {status:>3}  {meaning}" for status, meaning in MEANINGS.items())
