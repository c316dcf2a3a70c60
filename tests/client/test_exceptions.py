"""Every refusal of the platform arrives as the exception that a caller would catch."""

import re

import grpc
import pytest

from tests.client.fake_gateway import FakeGateway, Refusal, World
from weighbridge import exceptions as e
from weighbridge.client import Client
from weighbridge.errors.v1.errors_pb2 import Reason

C = grpc.StatusCode
_CASES = [
    (C.INVALID_ARGUMENT, "INVALID_REQUEST", e.InvalidRequest),
    (C.INVALID_ARGUMENT, "INVALID_SPEC", e.InvalidSpec),
    (C.INVALID_ARGUMENT, "INVALID_MODEL", e.InvalidModel),
    (C.INVALID_ARGUMENT, "INVALID_DATASET", e.InvalidDataset),
    (C.INVALID_ARGUMENT, "DIGEST_MISMATCH", e.DigestMismatch),
    (C.INVALID_ARGUMENT, "INVALID_CURSOR", e.InvalidCursor),
    (C.INVALID_ARGUMENT, "PROMPT_TOO_LONG", e.PromptTooLong),
    (C.UNAUTHENTICATED, "UNAUTHENTICATED", e.Unauthenticated),
    (C.PERMISSION_DENIED, "PERMISSION_DENIED", e.PermissionDenied),
    (C.NOT_FOUND, "NOT_FOUND", e.NotFound),
    (C.ALREADY_EXISTS, "ALREADY_EXISTS", e.AlreadyExists),
    (C.ALREADY_EXISTS, "REQUEST_ID_REUSED", e.RequestIdReused),
    (C.FAILED_PRECONDITION, "WRONG_STATE", e.WrongState),
    (C.FAILED_PRECONDITION, "STALE_ATTEMPT", e.WrongState),
    (C.FAILED_PRECONDITION, "IN_USE", e.InUse),
    (C.FAILED_PRECONDITION, "MUST_WAIT", e.MustWait),
    (C.FAILED_PRECONDITION, "DOES_NOT_FIT", e.DoesNotFit),
    (C.OUT_OF_RANGE, "WRONG_OFFSET", e.WrongOffset),
    (C.FAILED_PRECONDITION, "INSUFFICIENT_DISK", e.InsufficientDisk),
    (C.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", e.QuotaExceeded),
    (C.RESOURCE_EXHAUSTED, "TOO_LARGE", e.TooLarge),
    (C.UNIMPLEMENTED, "NOT_AVAILABLE", e.NotAvailable),
    (C.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", e.DeadlineExceeded),
    (C.DEADLINE_EXCEEDED, "IDLE", e.DeadlineExceeded),
    (C.INTERNAL, "INTERNAL", e.Internal),
    # Reasons that a newer platform has and this client does not.
    (C.INVALID_ARGUMENT, "INVALID_HAT", e.InvalidRequest),
    (C.ABORTED, "BUSY", e.CallError),
]


@pytest.mark.parametrize(("code", "reason", "kind"), _CASES)
def test_each_reason_is_an_exception_of_its_own(
    code: C, reason: str, kind: type[e.CallError], client: Client, world: World
) -> None:
    world.errors["GetTrainingJob"] = Refusal(code, reason, "what, limit, next", {"resource": "x"})
    with pytest.raises(e.CallError) as caught:
        client.jobs.get("t1")
    assert type(caught.value) is kind
    assert (caught.value.reason, str(caught.value)) == (reason, "what, limit, next")
    assert caught.value.metadata == {"resource": "x"}


def test_every_reason_of_the_contract_for_a_call_is_covered() -> None:
    calls = {name.removeprefix("REASON_") for name, number in Reason.items() if 0 < number < 100}
    # Between services only; or UNAVAILABLE, which is tried again first.
    elsewhere = {"APPROVAL_REFUSED", "NO_RESERVATION", "PEER_UNAVAILABLE", "DRAINING"}
    assert calls - elsewhere <= {reason for _, reason, _ in _CASES}


def test_violations_name_the_fields(client: Client, world: World) -> None:
    violations = {"spec.training.learning_rate": "must be above 0"}
    world.errors["CheckTrainingJob"] = Refusal(C.INVALID_ARGUMENT, "INVALID_REQUEST", violations=violations)
    with pytest.raises(e.InvalidRequest) as caught:
        client.check({"task": "sft"})
    assert caught.value.violations == violations


def test_a_quota_says_when_to_come_back(client: Client, world: World) -> None:
    world.errors["GetTrainingJob"] = Refusal(C.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", retry_after_s=2.5)
    with pytest.raises(e.QuotaExceeded) as caught:
        client.jobs.get("t1")
    assert caught.value.retry_after_s == 2.5


def test_an_unavailable_platform_is_tried_again(client: Client, world: World, gateway: FakeGateway) -> None:
    gateway.kill_for(0.3)
    assert client.jobs.get("t1").id == "t1"


def test_a_platform_that_is_not_there_is_unavailable(gateway: FakeGateway) -> None:
    gateway.kill()
    with Client(gateway.target, "token") as client, pytest.raises(e.Unavailable, match="is it running"):
        client.nodes()


def test_a_wrong_token_is_unauthenticated(gateway: FakeGateway) -> None:
    with Client(gateway.target, "wrong") as client, pytest.raises(e.Unauthenticated):
        client.nodes()


def test_an_oversized_message_is_too_large(client: Client, world: World) -> None:
    with pytest.raises(e.TooLarge, match="too large for one call"):
        client.check({"task": "sft", "labels": {"a": "x" * (5 << 20)}})


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^([│├└─ ]*)(\w+)", str(e.__doc__).partition("\n\n")[2], re.MULTILINE)
    parents: list[str] = []
    for indent, name in drawn:
        depth = len(indent) // 4
        parents[depth:] = [name]
        kind = getattr(e, name)
        assert depth == 0 or kind.__bases__[0].__name__ == parents[depth - 1]
    classes = {
        name for name, value in vars(e).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert classes == {name for _, name in drawn}
