"""The classes against the contract: its comments say which status and keys each reason has."""

import pickle
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio
import pytest

from services.common.errors import BY_REASON, Code, InvalidRequest, RemoteError, ServiceError
from services.common.failures import Failure, failure_of
from services.common.rpc import DETAILS_KEY, from_rpc_error, status_of
from tests.common.processes import ROOT

CONTRACT = ROOT / "protos" / "weighbridge" / "errors" / "v1" / "errors.proto"


class Entry(NamedTuple):
    code: str
    keys: list[str]


def contract() -> dict[str, Entry]:
    """Return every reason that is a call's, from the comments of the contract."""
    found = {}
    for comment, reason in re.findall(r"((?:  //.*\n)+)  REASON_(\w+) =", Path(CONTRACT).read_text()):
        text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        code, _, rest = text.partition(":")
        if code in Code.__members__:
            keys = re.search(r"Keys: ([\w, ]+)\.", rest)
            found[reason] = Entry(code, keys[1].split(", ") if keys else [])
    return found


VALUES = {"int": 7, "float": 2.5, "str": "text", "object": "text"}


def example(cls: type[ServiceError]) -> Any:
    if cls is InvalidRequest:
        return InvalidRequest({"spec.model": "value is required", "name": "is too long"})
    return cls(**{item.name: VALUES[getattr(item.type, "__name__", "")] for item in fields(cls)})  # type: ignore[arg-type]


def test_the_contract_and_the_classes_name_the_same_reasons() -> None:
    assert set(BY_REASON) == set(contract())
    assert len(BY_REASON) == 29


@pytest.mark.parametrize("reason", BY_REASON)
def test_status_and_keys_are_the_contracts(reason: str) -> None:
    error = example(BY_REASON[reason])
    assert (error.code, list(error.metadata)) == (contract()[reason].code, contract()[reason].keys)
    assert str(error)


@pytest.mark.parametrize("reason", [*BY_REASON, "REMOTE"])
def test_an_error_survives_the_way_out_of_a_child_process(reason: str) -> None:
    error = (
        RemoteError("X", Code.ABORTED, "m", {"a": "b"}) if reason == "REMOTE" else example(BY_REASON[reason])
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)


def as_received(error: ServiceError) -> grpc.aio.AioRpcError:
    status = status_of(error)
    trailers = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(grpc.StatusCode[error.code], grpc.aio.Metadata(), trailers, status.message)


@pytest.mark.parametrize("reason", sorted(set(BY_REASON) - {"UNAUTHENTICATED"}))
def test_an_error_survives_the_wire(reason: str) -> None:
    error = example(BY_REASON[reason])
    again = from_rpc_error(as_received(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_a_reason_of_a_newer_peer_keeps_code_text_and_metadata() -> None:
    error = RemoteError("SOMETHING_NEW", Code.ABORTED, "try later", {"key": "value"})
    again = from_rpc_error(as_received(error))
    assert isinstance(again, RemoteError)
    assert (again.reason, again.code, str(again), again.metadata) == (
        "SOMETHING_NEW",
        Code.ABORTED,
        "try later",
        {"key": "value"},
    )


def test_keys_of_another_version_do_not_break_the_reading() -> None:
    error = RemoteError("NOT_FOUND", Code.NOT_FOUND, "gone", {"no_such_key": "value"})
    again = from_rpc_error(as_received(error))
    assert (again.reason, again.code, str(again)) == ("NOT_FOUND", Code.NOT_FOUND, "gone")


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("UNAVAILABLE", "connection refused", "PEER_UNAVAILABLE"),
        ("CANCELLED", "", "PEER_UNAVAILABLE"),
        ("DEADLINE_EXCEEDED", "", "DEADLINE_EXCEEDED"),
        ("UNIMPLEMENTED", "", "NOT_AVAILABLE"),
        ("UNAUTHENTICATED", "", "INTERNAL"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", "TOO_LARGE"),
        ("RESOURCE_EXHAUSTED", "out of threads", "RESOURCE_EXHAUSTED"),
        ("DATA_LOSS", "", "DATA_LOSS"),
    ],
)
def test_a_status_that_grpc_made_itself_gets_a_class(code: str, text: str, expected: str) -> None:
    empty = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode[code], empty, empty, text)
    assert from_rpc_error(error, "nodes/one").reason == expected


def test_details_that_are_no_status_are_passed_over() -> None:
    trailers = grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, "gone")
    assert from_rpc_error(error).code is Code.NOT_FOUND


def test_a_jobs_failure_says_what_the_call_would_have() -> None:
    error = example(BY_REASON["INVALID_MODEL"])
    expected = Failure(
        reason="INVALID_MODEL", message=str(error), metadata={"model": "text", "detail": "text"}
    )
    assert failure_of(error) == expected
