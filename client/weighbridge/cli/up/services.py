"""The services of a local platform: what starts each, on which port, and what it is told."""

import contextlib
import importlib.util
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from weighbridge.cli.exits import CommandError, Exit
from weighbridge.cli.up.home import SERVICES, Home

HOST = "127.0.0.1"
# No replica takes over here: there is nothing to wait for but calls and workers that are under way.
DRAIN_S, GRACE_S = 0, 10
_MODULES = {
    "gateway": "gateway.server",
    "hardware": "services.hardware.server",
    "trainer": "services.trainer.server",
}
# Of the caller's environment: the client's own, and what must not be the same in three processes.
_DROPPED = frozenset(
    f"WEIGHBRIDGE_{name}"
    for name in ("TOKEN", "TARGET", "PROJECT", "HEALTH_PORT", "METRICS_PORT", "TLS_CERT", "TLS_KEY", "TLS_CA")
)


@dataclass(frozen=True)
class Service:
    """A service as it is started."""

    name: str
    module: str
    port: int
    env: Mapping[str, str]

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"{HOST}:{self.port}"


def plan(home: Home, ports: Mapping[str, int], node: str, *, keep_running: bool) -> list[Service]:
    """Return the services. Settings that the caller's environment holds apply, but for those made here."""
    address = {name: f"{HOST}:{port}" for name, port in ports.items()}
    own = {
        "gateway": {
            "LEDGER_URL": f"sqlite+aiosqlite:///{home.state_dir('gateway')}/ledger.db",
            "ESTIMATOR_TARGET": address["hardware"],
        },
        "hardware": {
            "NODE": node,
            "ROLES": "node,estimator",
            "GATEWAY_TARGET": address["gateway"],
            "ADVERTISE": address["hardware"],
        },
        "trainer": {
            "NODE": node,
            "HARDWARE_TARGET": address["hardware"],
            "ADVERTISE": address["trainer"],
            "END_WORKERS": str(not keep_running).lower(),
        },
    }
    return [
        Service(name, _MODULES[name], ports[name], _environment(home, name, ports[name], own[name]))
        for name in SERVICES
    ]


def _environment(home: Home, service: str, port: int, own: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    defaults = {
        "MODEL_ROOT": str(home.root / "models"),
        "SECRETS_DIR": str(home.root / "secrets"),
        "LOG_FORMAT": "console",
        "DRAIN": str(DRAIN_S),
        "GRACE": str(GRACE_S),
    }
    fixed = {
        "HOST": HOST,
        "PORT": str(port),
        "STATE_DIR": str(home.state_dir(service)),
        "STORE_URL": f"file://{home.root}/store",
        "IDENTITIES_FILE": str(home.identities_file),
        "TOKEN_FILE": str(home.token_file(service)),
        **own,
    }
    return {**_prefixed(defaults), **inherited, **_prefixed(fixed), "PYTHONUNBUFFERED": "1"}


def _prefixed(values: Mapping[str, str]) -> dict[str, str]:
    return {f"WEIGHBRIDGE_{name}": value for name, value in values.items()}


def check_installed() -> None:
    """Raise CommandError where the platform is not installed beside the client."""
    missing = [module for module in _MODULES.values() if not _importable(module)]
    if missing:
        raise CommandError(
            "`weighbridge up` starts the platform itself, which is not installed here "
            f"({', '.join(missing)}): in a checkout, `make demo` installs it, or "
            "`pip install '.[gateway,hardware,estimator,trainer]'`",
            Exit.USAGE,
        )


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def choose_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the wanted ports, a free one for 0. Raises CommandError for one that is taken."""
    with contextlib.ExitStack() as stack:
        # All are held until the last is chosen: a free one is given out once.
        return {
            service: _bind(stack.enter_context(socket.socket()), service, port)
            for service, port in wanted.items()
        }


def _bind(probe: socket.socket, service: str, port: int) -> int:
    # As the service itself binds it: a port that closed a moment ago is free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
    except OSError as error:
        option = "--port" if service == "gateway" else f"--{service}-port"
        text = f"port {port} for the {service} service is taken: choose another with {option}"
        raise CommandError(f"{text} ({error.strerror})", Exit.CONFLICT) from error
    return int(probe.getsockname()[1])
