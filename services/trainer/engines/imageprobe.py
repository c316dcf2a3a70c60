"""Tells what the workers' image can import: `python -m services.trainer.engines.imageprobe IMAGE PACKAGE…`.

A child of the trainer in the place of `probe`, which it runs in a container. Its exit status is that of the
container; os.EX_TEMPFAIL, with the reason as its output, says that there was none.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from docker.errors import APIError

from services.common.errors import PeerUnavailable
from services.trainer.engines.container import probe_container
from services.trainer.engines.docker import DockerEngine
from services.trainer.settings import TrainerSettings


def main(arguments: Sequence[str]) -> int:
    """Print what was found, an object a line; return the exit status."""
    image, *packages = arguments
    # All but the image, which the caller's findings depend on, stands in the environment.
    settings = TrainerSettings().model_copy(update={"docker_image": image})
    try:
        with contextlib.closing(DockerEngine(settings)) as engine:
            status, output = engine.ask(probe_container(packages, settings))
    except PeerUnavailable as error:
        status, output = os.EX_TEMPFAIL, error.target.encode()
    except APIError as error:
        status, output = os.EX_TEMPFAIL, f"image {image}: {error.explanation or error}".encode()
    sys.stdout.buffer.write(output)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
