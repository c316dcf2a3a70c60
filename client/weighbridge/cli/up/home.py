"""The directory of a local platform: who may call, what each service keeps, and what they log."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weighbridge._claims import claimed, lock
from weighbridge.cli.exits import CommandError, Exit
from weighbridge.config import CLIENT_FILE

SERVICES = ("gateway", "hardware", "trainer")


@dataclass(frozen=True)
class Home:
    """The paths below the directory; only its owner may read any of it."""

    root: Path

    @property
    def client_file(self) -> Path:
        """What tells the client where the platform is."""
        return self.root / CLIENT_FILE

    @property
    def identities_file(self) -> Path:
        """Who may call what."""
        return self.root / "identities.json"

    @property
    def lock_file(self) -> Path:
        """Held, with its process id in it, by the `weighbridge up` that runs here."""
        return self.root / "up.lock"

    @property
    def ready_file(self) -> Path:
        """There while the platform is up: the process id of its `weighbridge up`."""
        return self.root / "up.ready"

    def token_file(self, identity: str) -> Path:
        """The token of an identity."""
        return self.root / "tokens" / identity

    def state_dir(self, service: str) -> Path:
        """What a service must find again."""
        return self.root / service

    def log_file(self, service: str) -> Path:
        """What a service logs."""
        return self.root / "logs" / f"{service}.log"

    def create(self) -> None:
        """Make the directory and those below it, for their owner alone."""
        for path in (
            self.root,
            *(self.root / name for name in ("tokens", "logs", "models", "secrets", "store", *SERVICES)),
        ):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Keep a second `weighbridge up` out. Raises CommandError where one is running."""
        with claimed(self.lock_file, mode=0o600) as file:
            if file is None:
                text = f"the platform in {self.root} is running already, as process {self.running()}"
                raise CommandError(f"{text}: `weighbridge down` stops it", Exit.CONFLICT)
            # What stands in it is for people and for `down`; it is the lock that counts.
            file.truncate()
            file.write(str(os.getpid()).encode())
            file.flush()
            try:
                yield
            finally:
                self.ready_file.unlink(missing_ok=True)

    def running(self) -> int | None:
        """Return the process id of the `weighbridge up` that runs here, if one does."""
        try:
            with self.lock_file.open("r+b") as file:
                return None if lock(file) else int(file.read() or b"0")
        except FileNotFoundError:
            return None

    def write_client_file(self, target: str) -> None:
        """Tell clients where the platform is and which token is theirs."""
        saved = {"target": target, "token_file": str(self.token_file("user"))}
        write_private(self.client_file, json.dumps(saved, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Make `text` the content of a file that its owner alone can read; there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
