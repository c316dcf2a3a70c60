"""The command `weighbridge`."""

import os


def main() -> None:
    """Run the command line; ends the process with one of `exits.Exit`."""
    # gRPC's own log tells of every connection that a restarted gateway closes.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # The processes of `weighbridge up` start through this package: it must not cost them typer and rich.
    try:
        from weighbridge.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "yaml"):
            raise
        raise SystemExit(f"the command line needs {error.name}: pip install 'weighbridge[cli]'") from error
    app()
