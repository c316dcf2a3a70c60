"""Who may import whom: the rules that keep services apart and the wire at the door (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUBS = tuple(
    f"weighbridge.{package}"
    for package in ("common", "errors", "evaluator", "gateway", "hardware", "retrieval", "trainer")
)
WIRE = ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "buf", "protovalidate", *STUBS)
OURS = ("benchmarks", "client", "demo", "gateway", "services", "tests", "tools", "weighbridge")
# The estimate is the trainer's recipe run on fake tensors, so that the two can never drift apart.
ESTIMATE_USES_RECIPES = ("services/hardware/estimate", "services.trainer.recipes")


def checked_files() -> list[PurePosixPath]:
    """Return every hand-written file of the services, the gateway and the client, relative to the root."""
    generated = [f"client/{stub.replace('.', '/')}" for stub in STUBS]
    files = [
        path.relative_to(ROOT)
        for top in ("services", "gateway", "client/weighbridge")
        for path in sorted((ROOT / top).rglob("*.py"))
    ]
    return [PurePosixPath(file) for file in files if not any(file.is_relative_to(top) for top in generated)]


def violations(file: PurePosixPath, source: str) -> list[str]:
    """Say which imports of `source`, the content of `file`, break a rule."""
    return [
        f"{file}:{line} imports {name}: {broken}"
        for line, name in imported_names(file, source)
        if (broken := broken_rule(file, name))
    ]


def broken_rule(file: PurePosixPath, name: str) -> str | None:
    """Return the rule that `file` breaks by importing `name`, if it breaks one."""
    if within(name, WIRE) and not at_the_door(file):
        return "only wire.py, server.py and peers.py import generated code or grpc"
    if within(name, OURS) and not within(name, allowed_packages(file)):
        return f"may import {', '.join(allowed_packages(file))} only"
    return None


def at_the_door(file: PurePosixPath) -> bool:
    """Say whether `file` may speak gRPC: the client, services.common, and the doors of a service do."""
    return (
        file.is_relative_to("client")
        or file.is_relative_to("services/common")
        or file.stem in ("wire", "server", "peers")
    )


def allowed_packages(file: PurePosixPath) -> tuple[str, ...]:
    """Return which of this repository's packages `file` may import."""
    if file.is_relative_to("client"):
        return ("weighbridge",)
    own = "gateway" if file.is_relative_to("gateway") else ".".join(file.parts[:2])
    estimate, recipes = ESTIMATE_USES_RECIPES
    extra = (recipes,) if file.is_relative_to(estimate) else ()
    return ("services.common", own, *extra, *STUBS)


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Say whether the dotted `name` is one of `packages` or lies inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported_names(file: PurePosixPath, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of every import, wherever in the file it stands."""
    package = file.relative_to("client") if file.is_relative_to("client") else file
    for node in ast.walk(ast.parse(source, str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.parts[: len(package.parts) - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_every_import_keeps_to_the_rules() -> None:
    found = [line for file in checked_files() for line in violations(file, (ROOT / file).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("services/trainer/runs/store.py", "import grpc"),
        ("services/trainer/runs/store.py", "def f():\n    import grpc.aio"),
        ("services/trainer/runs/store.py", "from google.protobuf import duration_pb2"),
        ("services/trainer/runs/store.py", "from weighbridge.trainer.v1 import service_pb2"),
        ("services/trainer/server.py", "from services.hardware import wire"),
        ("services/trainer/server.py", "from services import hardware"),
        ("services/trainer/server.py", "from ..hardware import wire"),
        ("services/trainer/server.py", "import gateway.ledger"),
        ("services/trainer/server.py", "from weighbridge import Client"),
        ("services/trainer/recipes/build.py", "from services.hardware.estimate import trace"),
        ("services/hardware/admission/verdict.py", "from services.trainer.recipes import build"),
        ("services/hardware/estimate/trace.py", "from services.trainer.runs import store"),
        ("services/common/auth.py", "from services.trainer import recipes"),
        ("gateway/server.py", "from services.trainer import wire"),
        ("gateway/ledger.py", "from weighbridge.gateway.v1 import resources_pb2"),
        ("client/weighbridge/client.py", "from services.common import errors"),
        ("client/weighbridge/cli/__init__.py", "import gateway"),
    ],
)
def test_a_forbidden_import_is_found(file: str, source: str) -> None:
    assert violations(PurePosixPath(file), source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("services/trainer/wire.py", "import grpc\nfrom weighbridge.trainer.v1 import service_pb2"),
        (
            "services/trainer/server.py",
            "from services.common import auth\nfrom services.trainer.runs import store",
        ),
        ("services/trainer/runs/store.py", "from . import outcome\nimport sqlalchemy"),
        ("services/hardware/estimate/trace.py", "from services.trainer.recipes import build"),
        ("services/common/auth.py", "import grpc\nfrom weighbridge.errors.v1 import errors_pb2"),
        ("gateway/server.py", "import gateway.ledger\nfrom weighbridge.hardware.v1 import service_pb2_grpc"),
        ("client/weighbridge/client.py", "import grpc\nfrom .gateway.v1 import service_pb2"),
    ],
)
def test_an_allowed_import_is_not_reported(file: str, source: str) -> None:
    assert violations(PurePosixPath(file), source) == []
