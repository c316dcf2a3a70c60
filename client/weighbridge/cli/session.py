"""What a command works with: the client, and whether a person or a script reads the answer."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weighbridge.cli import output
from weighbridge.cli.exits import Exit, exit_of
from weighbridge.client import Client
from weighbridge.exceptions import WeighbridgeError


@dataclass
class Session:
    """One run of the command."""

    target: str | None = None
    token_file: str | None = None
    project: str | None = None
    json: bool = False
    """Print JSON."""
    _exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def client(self) -> Client:
        """Return a client, closed when the command ends. Raises NotConfigured."""
        return self._exits.enter_context(Client(self.target, self._token(), self.project))

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        return Path(self.token_file).read_text().strip()

    def close(self) -> None:
        """Close what the command opened."""
        self._exits.close()


def session(ctx: typer.Context) -> Session:
    """Return the session of the command that `ctx` belongs to."""
    found = ctx.find_root().obj
    assert isinstance(found, Session)
    return found


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    # The root's own `--json` comes here before there is a session; its callback takes the value itself.
    found = ctx.find_root().obj
    if value and isinstance(found, Session):
        found.json = True
    return value


JsonFlag = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_remember_json,
        help="Print JSON: one object a line, with the contract's field names.",
    ),
]
"""The option that every command has."""


class Commands(TyperGroup):
    """The root of the commands: turns errors into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Raises typer.Exit with the status of what went wrong."""
        try:
            return super().invoke(ctx)
        except WeighbridgeError as error:
            self._fail(ctx, error, exit_of(error))
        except BrokenPipeError:
            # `weighbridge jobs list | head`: typer ends quietly.
            raise
        except OSError as error:
            self._fail(ctx, error, Exit.USAGE)
        except KeyboardInterrupt:
            output.note("interrupted")
            raise typer.Exit(Exit.INTERRUPTED) from None
        finally:
            if isinstance(ctx.obj, Session):
                ctx.obj.close()

    def _fail(self, ctx: Any, error: Exception, status: Exit) -> None:
        output.failed(error, as_json=isinstance(ctx.obj, Session) and ctx.obj.json)
        raise typer.Exit(status)
