import json
from pathlib import Path
from typing import Any

import pytest

from services.common.auth import Caller, Entry, Identities, current_caller, hash_token
from services.common.errors import PermissionDenied, Unauthenticated

METHOD = "/weighbridge.gateway.v1.TrainingService/GetTrainingJob"
ENTRY = {"identity": "user", "token_sha256": hash_token("t"), "methods": ["/*"], "projects": ["a"]}


def table(*methods: str) -> Identities:
    return Identities([Entry(identity="user", token_sha256=hash_token("t"), methods=methods)])


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def test_a_token_names_its_owner() -> None:
    entry = Entry(
        identity="user", name="alice", token_sha256=hash_token("t"), methods=("*",), projects=("a",)
    )
    assert Identities([entry]).admit(METHOD, bearer("t")) == Caller("user", "alice", ("a",))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("x"),
        bearer(""),
        (("authorization", "t"),),
        (("authorization", "Basic t"),),
        (("authorization-bin", b"Bearer t"),),
    ],
)
def test_anything_but_a_known_bearer_token_is_nobody(metadata: Any) -> None:
    with pytest.raises(Unauthenticated):
        table("*").admit(METHOD, metadata)


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("*", True),
        (METHOD, True),
        ("/weighbridge.gateway.v1.TrainingService/*", True),
        ("/weighbridge.gateway.v1.TrainingService/Get*", True),
        ("/weighbridge.gateway.v1.*", True),
        ("/weighbridge.gateway.v1.TrainingService/List*", False),
        ("/weighbridge.hardware.v1.*", False),
        ("GetTrainingJob", False),
        ("", False),
    ],
)
def test_methods_are_allowed_by_pattern(pattern: str, allowed: bool) -> None:
    if allowed:
        table(pattern).admit(METHOD, bearer("t"))
        return
    with pytest.raises(PermissionDenied):
        table(pattern).admit(METHOD, bearer("t"))


@pytest.mark.parametrize(
    ("patterns", "project", "seen"),
    [(("*",), "any", True), (("a", "b"), "b", True), (("a",), "ab", False), (("team-*",), "team-x", True)],
)
def test_projects_are_seen_by_pattern(patterns: tuple[str, ...], project: str, seen: bool) -> None:
    assert Caller("user", "alice", patterns).sees(project) is seen


def test_outside_of_a_call_there_is_no_caller() -> None:
    with pytest.raises(LookupError):
        current_caller()


def test_the_table_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "identities.json"
    path.write_text(json.dumps({"identities": [ENTRY]}))
    assert Identities.load(path).admit(METHOD, bearer("t")) == Caller("user", "user", ("a",))


@pytest.mark.parametrize(
    "change",
    [
        {"token_sha256": "t"},
        {"token_sha256": hash_token("t").upper()},
        {"identity": ""},
        {"identity": "a/b"},
        {"name": "line\nbreak"},
        {"projects": ["a,b"]},
        {"methods": None},
        {"unknown": 1},
    ],
)
def test_a_table_with_a_mistake_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "identities.json"
    path.write_text(json.dumps({"identities": [ENTRY | change]}))
    with pytest.raises(ValueError, match=r"identities\.json is no identities file"):
        Identities.load(path)
