"""Where the platform is and who calls: arguments, then the environment, then what `weighbridge up` wrote.

WEIGHBRIDGE_TARGET      `host:port` of the gateway
WEIGHBRIDGE_TOKEN       the caller's token
WEIGHBRIDGE_TOKEN_FILE  a file that holds it
WEIGHBRIDGE_PROJECT     the project to work in
WEIGHBRIDGE_TLS_CA      authority that certifies the gateway, PEM; without it, only loopback is called
WEIGHBRIDGE_HOME        directory of the local platform and of `client.json`; `~/.weighbridge`
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weighbridge.exceptions import NotConfigured

DEFAULT_PROJECT = "default"
CLIENT_FILE = "client.json"
_UNKNOWN = "{what} is not known: start the platform with `weighbridge up`, or set {variables}"


@dataclass(frozen=True)
class Config:
    """What a client needs to know."""

    target: str
    """`host:port` of the gateway."""
    token: str = field(repr=False)
    """Sent with every call."""
    project: str
    """Completes short names: `digits` is `projects/{project}/datasets/digits`."""
    ca_file: Path | None = None
    """Authority that certifies the gateway, PEM."""


def home() -> Path:
    """Return the directory of the local platform and of what the client remembers."""
    return Path(os.environ.get("WEIGHBRIDGE_HOME") or "~/.weighbridge").expanduser()


def resolve(target: str | None = None, token: str | None = None, project: str | None = None) -> Config:
    """Return the configuration; what is not given comes from the environment, then from `client.json`.

    Raises:
        NotConfigured: no target or no token is known, or a file that should hold one cannot be read.
    """
    env, saved = os.environ, _saved()
    saved_target = saved.get("target", "")
    target = target or env.get("WEIGHBRIDGE_TARGET") or saved_target
    if not target:
        raise NotConfigured(_UNKNOWN.format(what="the platform's address", variables="WEIGHBRIDGE_TARGET"))
    # A saved token belongs to the platform that it was saved with: it is not shown to another one.
    saved_token_file = saved.get("token_file", "") if target == saved_target else ""
    token = (
        token
        or env.get("WEIGHBRIDGE_TOKEN")
        or _token_in(env.get("WEIGHBRIDGE_TOKEN_FILE") or saved_token_file)
    )
    if not token:
        variables = "WEIGHBRIDGE_TOKEN or WEIGHBRIDGE_TOKEN_FILE"
        raise NotConfigured(_UNKNOWN.format(what=f"a token for {target}", variables=variables))
    project = project or env.get("WEIGHBRIDGE_PROJECT") or saved.get("project") or DEFAULT_PROJECT
    # Only the environment: a certificate belongs to the machine, not to a call.
    ca_file = env.get("WEIGHBRIDGE_TLS_CA")
    return Config(target, token.strip(), project, Path(ca_file) if ca_file else None)


def _saved() -> Mapping[str, str]:
    path = home() / CLIENT_FILE
    try:
        saved = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise NotConfigured(f"{path} cannot be read: {error}") from error
    if not isinstance(saved, dict) or not all(isinstance(value, str) for value in saved.values()):
        raise NotConfigured(f"{path} is not what `weighbridge up` writes: start it again")
    return saved


def _token_in(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise NotConfigured(f"the token file cannot be read: {error}") from error
