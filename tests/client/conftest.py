from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.fake_gateway import TOKEN, FakeGateway, World
from weighbridge.client import Client


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and none of the caller's settings."""
    for name in ("TARGET", "TOKEN", "TOKEN_FILE", "PROJECT", "TLS_CA"):
        monkeypatch.delenv(f"WEIGHBRIDGE_{name}", raising=False)
    path = tmp_path / "home"
    monkeypatch.setenv("WEIGHBRIDGE_HOME", str(path))
    return path


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def gateway(world: World) -> Iterator[FakeGateway]:
    server = FakeGateway(world)
    yield server
    server.kill()


@pytest.fixture
def client(gateway: FakeGateway) -> Iterator[Client]:
    with Client(gateway.target, TOKEN) as made:
        yield made
