"""The worker of one run: `python -m services.trainer.worker RUN_DIR`.

It takes the run's locks before anything else, trains, and ends with `outcome.json`. It speaks no gRPC, holds
no credential and reaches no store: what it needs stands in the run's directory, and what it makes stays there
until the service has published it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from services.trainer.work.locks import take_run


def main(arguments: Sequence[str]) -> int:
    """Work on the run whose directory is named; return the process's exit status.

    A second worker of a run ends at once and in silence: a spawn may be repeated.
    """
    # Absolute, since libraries may change the working directory later.
    path = Path(arguments[0]).absolute()
    hold = take_run(path)
    if hold is None:
        return 0
    # Imported only now: the claim is taken before anything that takes time.
    from services.trainer.work.boundary import work

    with hold:
        return work(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
