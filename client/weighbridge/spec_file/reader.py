"""From a tree of written values to a message: by the contract's own descriptors, collecting every fault."""

import json
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from weighbridge.exceptions import Problem
from weighbridge.spec_file.references import complete
from weighbridge.spec_file.suggest import unknown_key
from weighbridge.spec_file.tree import Items, Keys, Scalar, Tree, to_plain_value
from weighbridge.spec_file.values import read_duration, read_scalar

DURATION, STRUCT = "google.protobuf.Duration", "google.protobuf.Struct"


class Reader:
    """Fills messages below `root` and keeps what is wrong in `problems`."""

    def __init__(self, root: Descriptor, project: str) -> None:
        self._root = root
        self._project = project
        self.problems: list[Problem] = []

    def fill(self, message: Any, keys: Keys, path: str = "") -> None:
        """Set the fields of `message` that `keys` names; `path` ends in a dot, or is empty."""
        group = message.DESCRIPTOR
        self._refuse_two_of_one(group, keys, path)
        for entry in keys.entries:
            field = group.fields_by_name.get(entry.key)
            if field is None:
                text = unknown_key(self._root, group, path, entry.key)
                self._report(entry.line, f"{path}{entry.key}", text)
            else:
                self._set(message, field, entry.tree, f"{path}{entry.key}")

    def _refuse_two_of_one(self, group: Descriptor, keys: Keys, path: str) -> None:
        for choice in group.oneofs:
            names = {field.name for field in choice.fields}
            found = [entry for entry in keys.entries if entry.key in names]
            if len({entry.key for entry in found}) > 1:
                first, second = found[:2]
                text = f"contradicts {path}{first.key}: give one of {', '.join(sorted(names))}"
                self._report(second.line, f"{path}{second.key}", text)

    def _set(self, message: Any, field: FieldDescriptor, tree: Tree, path: str) -> None:
        if isinstance(tree, Scalar) and tree.value is None:
            self._report(tree.line, path, _empty(field))
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._set_map(message, field, tree, path)
        # Maps are repeated too, so they come first.
        elif field.is_repeated:
            self._set_list(message, field, tree, path)
        elif field.message_type is not None:
            below = getattr(message, field.name)
            # `lora: {}` is an adapter with its defaults, and no `lora` is none.
            below.SetInParent()
            self._set_message(below, tree, path)
        else:
            value = self._scalar(field, tree, path)
            if value is not None:
                setattr(message, field.name, value)

    def _set_map(self, message: Any, field: Any, tree: Tree, path: str) -> None:
        if not isinstance(tree, Keys):
            self._report(tree.line, path, f"expected keys and values, found {_what(tree)}")
            return
        value_field = field.message_type.fields_by_name["value"]
        for entry in tree.entries:
            value = self._scalar(value_field, entry.tree, f"{path}.{entry.key}")
            if value is not None:
                getattr(message, field.name)[entry.key] = value

    def _set_list(self, message: Any, field: FieldDescriptor, tree: Tree, path: str) -> None:
        # One value stands for a list of one: `target_modules: all-linear`.
        items = tree.items if isinstance(tree, Items) else (tree,)
        values = getattr(message, field.name)
        for index, item in enumerate(items):
            item_path = f"{path}[{index}]" if isinstance(tree, Items) else path
            if field.message_type is not None:
                self._set_message(values.add(), item, item_path)
            else:
                value = self._scalar(field, item, item_path)
                if value is not None:
                    values.append(value)

    def _set_message(self, message: Any, tree: Tree, path: str) -> None:
        kind = message.DESCRIPTOR.full_name
        if kind == DURATION and isinstance(tree, Scalar):
            try:
                message.FromNanoseconds(read_duration(tree.text))
            except ValueError as error:
                self._report(tree.line, path, str(error))
        elif kind == STRUCT and isinstance(tree, Keys):
            self._set_struct(message, tree, path)
        elif kind not in (DURATION, STRUCT) and isinstance(tree, Keys):
            self.fill(message, tree, f"{path}.")
        else:
            expected = "a duration such as 2h30m" if kind == DURATION else "keys below it"
            self._report(tree.line, path, f"expected {expected}, found {_what(tree)}")

    def _set_struct(self, message: Any, tree: Keys, path: str) -> None:
        plain = to_plain_value(tree)
        try:
            # JSON, which a Struct stands for, has no infinity.
            json.dumps(plain, allow_nan=False)
        except ValueError:
            self._report(tree.line, path, "holds a number that is not finite")
            return
        message.update(plain)

    def _scalar(self, field: FieldDescriptor, tree: Tree, path: str) -> str | bool | int | float | None:
        if not isinstance(tree, Scalar) or tree.value is None:
            self._report(tree.line, path, f"expected one value, found {_what(tree)}")
            return None
        try:
            value = read_scalar(field, tree.text)
        except ValueError as error:
            self._report(tree.line, path, str(error))
            return None
        return complete(field.full_name, value, self._project) if isinstance(value, str) else value

    def _report(self, line: int, path: str, message: str) -> None:
        self.problems.append(Problem(line, path, message))


def _empty(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.full_name != DURATION:
        return f"is empty: write `{field.name}: {{}}` for its defaults, or leave the key out"
    return "is empty: give a value, or leave the key out"


def _what(tree: Tree) -> str:
    if isinstance(tree, Scalar):
        return "nothing" if tree.value is None else repr(tree.text)
    return "a list" if isinstance(tree, Items) else "keys"
