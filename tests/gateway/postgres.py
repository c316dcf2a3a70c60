"""A real PostgreSQL server for as long as the tests run."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gateway.rig import free_port

_PROGRAMS = ("initdb", "pg_ctl", "createdb")
# Debian keeps the server's programs out of the way of PATH.
_PLACES = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.get_exec_path())]
# The server refuses to run as root. Another program changes the user: this process would have to fork for it,
# which one that uses grpc must not do.
_AS_USER = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()


def programs() -> Path | None:
    """Return the directory of the server's programs; None where PostgreSQL is not installed."""
    whole = (place for place in _PLACES if all((place / program).exists() for program in _PROGRAMS))
    return next(whole, None)


class Postgres:
    """A server on loopback."""

    def __init__(self, bin_dir: Path, directory: Path, port: int) -> None:
        self._bin = bin_dir
        self._directory = directory
        self._port = port

    def start(self) -> None:
        """Make an empty cluster and serve it."""
        data = str(self._directory / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", "tests", "--no-sync")
        options = f"-p {self._port} -k {self._directory} -h 127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", data, "-o", options, "-l", str(self._directory / "log"), "-w", "start")

    def stop(self) -> None:
        """End the server at once."""
        self._run("pg_ctl", "-D", str(self._directory / "data"), "-m", "immediate", "stop")

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "tests", name)
        return f"postgresql+asyncpg://tests@127.0.0.1:{self._port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        # Output into a file: the server inherits it, and a pipe would never end.
        with (self._directory / "said").open("ab") as said:
            command = [*_AS_USER, str(self._bin / program), *arguments]
            subprocess.run(
                command,
                cwd=self._directory,
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                check=True,
            )


@contextmanager
def postgres(bin_dir: Path) -> Iterator[Postgres]:
    """Keep a server running."""
    directory = Path(tempfile.mkdtemp(prefix="weighbridge-postgres-"))
    if _AS_USER:
        shutil.chown(directory, "postgres")
    server = Postgres(bin_dir, directory, free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
