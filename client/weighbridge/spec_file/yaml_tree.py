"""YAML text as a tree, and plain values as YAML text."""

import re
from typing import Any

import yaml

from weighbridge.exceptions import Problem, SpecError
from weighbridge.spec_file.tree import Entry, Items, Keys, Scalar, Tree

# Numbers that YAML 1.1 takes for text, such as 1e-3.
_NUMBER = re.compile(r"[+-]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
# What a plain scalar can be by itself; anything else, such as a date, is text.
_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))


class _Loader(yaml.SafeLoader):
    """Refuses aliases: a short file needs none, and a few of them unfold to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed here", problem_mark=mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes text that this module would otherwise read as a number."""

    def represent_text(self, text: str) -> yaml.Node:
        style = "'" if _NUMBER.fullmatch(text) else None
        # Single quotes lose the rarer line breaks; double quotes write them as escapes.
        style = style if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def read(text: str, source: str) -> tuple[Tree, list[Problem]]:
    """Return the tree of one YAML document, and the keys that it gives twice.

    Raises:
        SpecError: the text is no YAML, or not one document.
    """
    loader: Any = _Loader
    try:
        root = yaml.compose(text, Loader=loader)
        problems: list[Problem] = []
        tree = _tree(root, _Loader(""), "", problems) if root is not None else Scalar("", None, 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(source, (Problem(mark.line + 1 if mark else 0, "", _reason(error)),)) from error
    except yaml.YAMLError as error:
        raise SpecError(source, (Problem(0, "", f"no YAML: {error}"),)) from error
    except RecursionError as error:
        raise SpecError(source, (Problem(0, "", "is nested too deeply"),)) from error
    return tree, problems


def write(plain: dict[str, Any]) -> str:
    """Return plain values as YAML text, in their order."""
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _reason(error: yaml.MarkedYAMLError) -> str:
    return f"no YAML: {error.problem or 'unreadable'}"


def _tree(node: yaml.Node, loader: yaml.SafeLoader, path: str, problems: list[Problem]) -> Tree:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return Keys(tuple(_entries(node, loader, path, problems)), line)
    if isinstance(node, yaml.SequenceNode):
        return Items(tuple(_tree(item, loader, path, problems) for item in node.value), line)
    return Scalar(node.value, _value(node, loader), line)


def _entries(
    node: yaml.MappingNode, loader: yaml.SafeLoader, path: str, problems: list[Problem]
) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for key_node, below in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        full = f"{path}{key}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(line, path.rstrip("."), "a key is one word, not a list or a group"))
        elif key in entries:
            problems.append(Problem(line, full, f"is given twice, first in line {entries[key].line}"))
        else:
            entries[key] = Entry(key, _tree(below, loader, f"{full}.", problems), line)
    return list(entries.values())


def _value(node: Any, loader: yaml.SafeLoader) -> Any:
    """Return what a scalar is by itself; quoted, it is text."""
    if node.style is not None:
        return node.value
    try:
        if node.tag in _PLAIN_TAGS:
            return loader.construct_object(node)
        return float(node.value) if _NUMBER.fullmatch(node.value) else node.value
    except ValueError:
        # `!!int seven`, or a number of thousands of digits.
        return node.value
