"""The rules that the contracts state, enforced on every request."""

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from services.common.errors import InvalidRequest


class RequestValidator:
    """Checks messages against the protovalidate rules of their own contract."""

    def __init__(self) -> None:
        self._validator = Validator()

    def check(self, message: Message) -> None:
        """Pass a message that keeps its contract's rules. Raises InvalidRequest with every violation."""
        # All of them at once: a caller should not have to find one mistake after the other.
        found = self._validator.collect_violations(message)
        if not found:
            return
        violations: dict[str, str] = {}
        for violation in found:
            path = _path(violation)
            text = violation.proto.message or violation.proto.rule_id
            violations[path] = f"{violations[path]}; {text}" if path in violations else text
        raise InvalidRequest(violations)


def _path(violation: Violation) -> str:
    """Return a violation's place as callers write it: `spec.training.labels["x"].values[3]`."""
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}"
        subscript = element.subscript
        if subscript is not None:
            path += f'["{subscript.value}"]' if subscript.field == "string_key" else f"[{subscript.value}]"
    return path.removeprefix(".")
