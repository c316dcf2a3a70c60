from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.common.errors import ApprovalRefused
from services.common.specs import Checkpoint, DeviceKind
from services.hardware.admission.approvals import Claims, Signer, reservation_of
from services.hardware.resources import DeviceAmount
from tests.hardware.samples import SHA

NODE, RUN = "nodes/lab-1", "runs/a-1"
CLAIMS = Claims(
    id="approval",
    reservation_id="reservation",
    node=NODE,
    run=RUN,
    device=DeviceKind.CPU,
    amounts=(DeviceAmount(device="host", reserved_bytes=7),),
    spec_sha256=SHA,
    expire_time_s=4_000_000_000,
    start_from=Checkpoint(
        step=3, digest="sha256:1", size_bytes=2, attempt=1, epoch=0.5, metrics={"loss": 1.0}
    ),
)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.load(tmp_path / "key.pem", NODE)


def test_what_was_signed_is_read_back(signer: Signer) -> None:
    assert signer.verify(signer.sign(CLAIMS), RUN) == CLAIMS
    start = replace(CLAIMS, start_from=None)
    assert signer.verify(signer.sign(start), RUN) == start


def test_the_key_survives_and_is_for_its_owner_alone(signer: Signer, tmp_path: Path) -> None:
    assert Signer.load(tmp_path / "key.pem", NODE).verify(signer.sign(CLAIMS), RUN) == CLAIMS
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_refused(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "key.pem").chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        Signer.load(tmp_path / "key.pem", NODE)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = generate_private_key(65537, 2048)
    path = tmp_path / "rsa.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(ValueError, match="Ed25519"):
        Signer.load(path, NODE)


def forged(signer: Signer) -> list[str]:
    token = signer.sign(CLAIMS)
    payload = jwt.decode(token, options={"verify_signature": False})
    header, _, signature = token.split(".")
    other_body = signer.sign(replace(CLAIMS, spec_sha256="cd" * 32)).split(".")[1]
    return [
        Signer(Ed25519PrivateKey.generate(), NODE).sign(CLAIMS),
        f"{header}.{other_body}.{signature}",
        jwt.encode(payload, None, algorithm="none"),
        jwt.encode(payload, "a secret of thirty-two characters", algorithm="HS256"),
        jwt.encode({"run": RUN, "node": NODE}, signer._key, algorithm="EdDSA"),
        "no token",
        "",
    ]


def test_a_token_that_the_node_did_not_sign_is_refused(signer: Signer) -> None:
    for token in forged(signer):
        with pytest.raises(ApprovalRefused, match="did not sign it"):
            signer.verify(token, RUN)


def test_a_token_for_another_run_or_node_is_refused(signer: Signer) -> None:
    with pytest.raises(ApprovalRefused, match="it is for runs/a-1"):
        signer.verify(signer.sign(CLAIMS), "runs/a-2")
    with pytest.raises(ApprovalRefused, match="nodes/lab-2, and this is nodes/lab-1"):
        signer.verify(signer.sign(replace(CLAIMS, node="nodes/lab-2")), RUN)


def test_the_reservation_is_read_from_any_token(signer: Signer) -> None:
    assert reservation_of(signer.sign(CLAIMS)) == "reservation"
    assert reservation_of("no token") == ""
