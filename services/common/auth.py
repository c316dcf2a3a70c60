"""Who calls, and what they may do.

One table says it all: an identity's token (its SHA-256), the methods it may call and the projects it may
see. The file:

    {"identities": [{"identity": "user", "name": "alice", "token_sha256": "9f86d0…",
                     "methods": ["/weighbridge.gateway.v1.*"], "projects": ["*"]}]}

`identity` is a role (user, gateway, hardware, trainer); several entries may share one and differ by `name`.
"""

import contextvars
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from services.common.errors import PermissionDenied, Unauthenticated

AUTHORIZATION_KEY = "authorization"
CALLER_KEY = "weighbridge-caller"
PROJECTS_KEY = "weighbridge-projects"
# The one identity that speaks for others: it authenticated them.
SPEAKER = "gateway"
_BEARER = "Bearer "
_NAME = re.compile(r"[A-Za-z0-9@._-]{1,128}")
_PROJECT = re.compile(r"[a-z0-9*-]{1,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_caller: contextvars.ContextVar["Caller | None"] = contextvars.ContextVar("caller", default=None)


@dataclass(frozen=True)
class Caller:
    """Who a call is served for: whoever made it, or whoever the gateway made it for."""

    identity: str
    """The role: user, gateway, hardware, trainer…"""
    name: str
    """Which of those who share the role."""
    projects: tuple[str, ...]
    """Patterns of the projects it sees; `*` stands for all."""

    def sees(self, project: str) -> bool:
        """Say whether resources of `project` exist for this caller."""
        return any(fnmatchcase(project, pattern) for pattern in self.projects)


def current_caller() -> Caller:
    """Return whom the call is served for. Raises LookupError outside of a call."""
    caller = _caller.get()
    if caller is None:
        raise LookupError("no call is being served here")
    return caller


def set_caller(caller: Caller) -> None:
    """Say whom the call is served for."""
    _caller.set(caller)


def caller_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata by which the gateway passes the current caller on. Empty outside of a call."""
    caller = _caller.get()
    if caller is None:
        return ()
    return (CALLER_KEY, f"{caller.identity}/{caller.name}"), (PROJECTS_KEY, ",".join(caller.projects))


def hash_token(token: str) -> str:
    """Return what the identities file holds of a token: its SHA-256 in hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the table."""

    identity: str
    token_sha256: str
    methods: tuple[str, ...]
    """Patterns of full method names, `/package.Service/Method`."""
    projects: tuple[str, ...] = ()
    name: str = ""
    """Empty: the identity's own name."""

    def caller(self) -> Caller:
        """Return the caller whose token this is."""
        return Caller(self.identity, self.name or self.identity, self.projects)

    def may_call(self, method: str) -> bool:
        """Say whether one of the patterns matches the full method name."""
        return any(fnmatchcase(method, pattern) for pattern in self.methods)


class Identities:
    """The table of those who may call."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._by_hash = {entry.token_sha256: entry for entry in entries}

    @classmethod
    def load(cls, path: Path) -> "Identities":
        """Read the table. Raises ValueError where the file is not as described, OSError where none is."""
        try:
            return cls([_entry(raw) for raw in json.loads(path.read_text())["identities"]])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no identities file: {error!r}") from error

    def admit(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Return whom a call is to be served for.

        What the metadata says about the caller is believed from the gateway only.

        Raises:
            Unauthenticated: no token, or nobody's.
            PermissionDenied: the token's owner may not call `method`.
        """
        sent = {key: value for key, value in metadata if isinstance(value, str)}
        header = sent.get(AUTHORIZATION_KEY, "")
        # The table is searched by hash: how long that takes says nothing about a token.
        entry = self._by_hash.get(hash_token(header.removeprefix(_BEARER)))
        if entry is None or not header.startswith(_BEARER):
            raise Unauthenticated
        if not entry.may_call(method):
            raise PermissionDenied(entry.identity, method)
        if entry.identity == SPEAKER and CALLER_KEY in sent:
            identity, _, name = sent[CALLER_KEY].partition("/")
            return Caller(identity, name, tuple(filter(None, sent.get(PROJECTS_KEY, "").split(","))))
        return entry.caller()


def _entry(raw: Mapping[str, Any]) -> Entry:
    entry = Entry(**{**raw, "methods": tuple(raw["methods"]), "projects": tuple(raw.get("projects", ()))})
    if not _HASH.fullmatch(entry.token_sha256):
        raise ValueError("token_sha256 is not 64 hexadecimal digits in lower case")
    # These travel as metadata, the projects joined by commas.
    if not all(map(_NAME.fullmatch, (entry.identity, entry.name or entry.identity))):
        raise ValueError("identity and name hold letters, digits and @._- only")
    if not all(map(_PROJECT.fullmatch, entry.projects)):
        raise ValueError("projects hold a-z, 0-9, - and * only")
    return entry
