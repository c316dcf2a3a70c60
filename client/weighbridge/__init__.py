"""Weighbridge weighs every training job before it is let onto a GPU, then runs it where it fits.

    from weighbridge import Client

    client = Client()
    client.datasets.upload("digits.zip", "digits")
    job = client.train("vit.yaml")
    job.wait()
    job.download("model")

The packages `common`, `errors`, `gateway`, `hardware` and `trainer` beside this file are generated from the
contracts.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weighbridge.client import Client as Client
    from weighbridge.exceptions import WeighbridgeError as WeighbridgeError
    from weighbridge.jobs import Job as Job

__version__ = "0.1.0"
__all__ = ["Client", "Job", "WeighbridgeError", "__version__"]

_HOMES = {"Client": "client", "Job": "jobs", "WeighbridgeError": "exceptions"}


def __getattr__(name: str) -> object:
    # Every service imports the stubs through this file: it must not cost them the client.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
