"""Approvals: a node's signed word that a run may start. Only the node that signed one verifies it."""

import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from services.common.atomic import write_bytes
from services.common.errors import ApprovalRefused
from services.common.specs import Checkpoint, DeviceKind
from services.hardware.admission.records import amounts_from_json, amounts_to_json
from services.hardware.admission.reservations import Entry
from services.hardware.resources import Approval, DeviceAmount

_ALGORITHM = "EdDSA"
_REQUIRED = ["jti", "exp", "reservation", "node", "run", "device", "amounts", "spec_sha256"]


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What an approval says."""

    id: str
    """Of this approval; a reservation may have had several."""
    reservation_id: str
    node: str
    run: str
    device: DeviceKind
    amounts: tuple[DeviceAmount, ...]
    spec_sha256: str
    expire_time_s: int
    """Seconds since the epoch. It bounds the start of the run, not its duration."""
    start_from: Checkpoint | None = None


class Signer:
    """Signs with the node's own key and knows its own signature again."""

    def __init__(self, key: Ed25519PrivateKey, node: str) -> None:
        self._key = key
        self._public_key = key.public_key()
        self._node = node

    @classmethod
    def load(cls, path: Path, node: str) -> "Signer":
        """Return the signer whose key is in `path`; a new key is written there, for its owner alone.

        Raises:
            ValueError: the file holds no Ed25519 key.
            PermissionError: others may read it.
        """
        if not path.exists():
            write_bytes(path, _to_pem(Ed25519PrivateKey.generate()), mode=0o600)
        if path.stat().st_mode & 0o077:
            raise PermissionError(
                f"{path} may be read by others: chmod 600, and remove it if they might have"
            )
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} holds no Ed25519 key")
        return cls(key, node)

    def approve(self, entry: Entry, start_from: Checkpoint | None, ttl_s: float) -> Approval:
        """Return an approval of a reservation that is good for the start within `ttl_s`."""
        claims = Claims(
            id=uuid.uuid4().hex,
            reservation_id=entry.id,
            node=self._node,
            run=entry.run,
            device=entry.device,
            amounts=entry.amounts,
            spec_sha256=entry.spec_sha256,
            # Whole seconds, rounded down: never later than the reservation itself lapses.
            expire_time_s=int(time.time() + ttl_s),
            start_from=start_from,
        )
        return Approval(
            token=self.sign(claims),
            run=entry.run,
            node=self._node,
            amounts=entry.amounts,
            device=entry.device,
            spec_sha256=entry.spec_sha256,
            start_from=start_from,
            expire_time=datetime.fromtimestamp(claims.expire_time_s, UTC),
        )

    def sign(self, claims: Claims) -> str:
        """Return the token."""
        return jwt.encode(_to_payload(claims), self._key, algorithm=_ALGORITHM)

    def verify(self, token: str, run: str) -> Claims:
        """Return what a token of this node says about `run`; whether it has expired is the caller's to judge.

        Raises:
            ApprovalRefused: another key signed it, or it is for another node or run.
        """
        # Algorithms are named by whoever verifies, never by the token: `none` is one too.
        options = {"require": _REQUIRED, "verify_exp": False}
        try:
            payload = jwt.decode(token, self._public_key, algorithms=[_ALGORITHM], options=options)  # type: ignore[arg-type]
            claims = _from_payload(payload)
        except (jwt.InvalidTokenError, ValueError, TypeError, KeyError, AttributeError):
            raise ApprovalRefused(run, f"{self._node} did not sign it") from None
        if claims.node != self._node:
            raise ApprovalRefused(run, f"it is for {claims.node}, and this is {self._node}")
        if claims.run != run:
            raise ApprovalRefused(run, f"it is for {claims.run}")
        return claims


def reservation_of(token: str) -> str:
    """Return the reservation's id in a token that is believed for another reason. Empty where it has none."""
    try:
        payload = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return ""
    return str(payload.get("reservation", ""))


def _to_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _to_payload(claims: Claims) -> dict[str, Any]:
    return {
        "jti": claims.id,
        "exp": claims.expire_time_s,
        "reservation": claims.reservation_id,
        "node": claims.node,
        "run": claims.run,
        "device": claims.device,
        "amounts": amounts_to_json(claims.amounts),
        "spec_sha256": claims.spec_sha256,
        "start_from": None if claims.start_from is None else asdict(claims.start_from),
    }


def _from_payload(payload: dict[str, Any]) -> Claims:
    start_from = payload.get("start_from")
    return Claims(
        id=payload["jti"],
        reservation_id=payload["reservation"],
        node=payload["node"],
        run=payload["run"],
        device=DeviceKind(payload["device"]),
        amounts=amounts_from_json(payload["amounts"]),
        spec_sha256=payload["spec_sha256"],
        expire_time_s=int(payload["exp"]),
        start_from=None if start_from is None else Checkpoint(**start_from),
    )
