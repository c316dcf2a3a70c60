import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from services.common.auth import hash_token
from services.common.channels import connect
from tests.common.processes import ServiceProcess, service
from weighbridge.hardware.v1 import service_pb2_grpc

PACKAGE = "/weighbridge.hardware.v1"
NODE = "lab-1"
Start = Callable[..., ServiceProcess]

ENTRIES = [
    {
        "identity": "gateway",
        "token_sha256": hash_token("gateway-token"),
        "methods": [f"{PACKAGE}.NodeService/*", f"{PACKAGE}.EstimatorService/*"],
        "projects": ["*"],
    },
    {
        "identity": "trainer",
        "token_sha256": hash_token("trainer-token"),
        "methods": [
            f"{PACKAGE}.NodeService/{method}"
            for method in ("ActivateReservation", "ReportUsage", "ReleaseReservation", "ReportTrainer")
        ],
        "projects": ["*"],
    },
]


@contextlib.contextmanager
def starter(directory: Path) -> Iterator[Start]:
    """Starts hardware services; each gets its own state directory, `directory / name`, and keeps it."""
    (directory / "identities.json").write_text(json.dumps({"identities": ENTRIES}))
    (directory / "hardware.token").write_text("hardware-token\n")
    with contextlib.ExitStack() as stack:

        def start_one(name: str = NODE, **settings: str) -> ServiceProcess:
            environment = {
                "WEIGHBRIDGE_IDENTITIES_FILE": str(directory / "identities.json"),
                "WEIGHBRIDGE_TOKEN_FILE": str(directory / "hardware.token"),
                "WEIGHBRIDGE_STATE_DIR": str(directory / name),
                "WEIGHBRIDGE_STORE_URL": f"file://{directory / 'store'}",
                "WEIGHBRIDGE_MODEL_ROOT": str(directory / "models"),
                "WEIGHBRIDGE_SECRETS_DIR": str(directory / "secrets"),
                "WEIGHBRIDGE_NODE": name,
                "WEIGHBRIDGE_ROLES": "node",
                "WEIGHBRIDGE_DRAIN": "0",
                "WEIGHBRIDGE_GRACE": "0",
                **settings,
            }
            log = directory / f"{name}.log"
            log.unlink(missing_ok=True)
            return stack.enter_context(service("services.hardware.server", environment, log))

        yield start_one


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starter(tmp_path) as start_one:
        yield start_one


@contextlib.asynccontextmanager
async def node_stub(
    server: ServiceProcess, identity: str = "gateway"
) -> AsyncIterator["service_pb2_grpc.NodeServiceAsyncStub"]:
    async with connect(server.address(), token=f"{identity}-token") as channel:
        yield service_pb2_grpc.NodeServiceStub(channel)


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hardware")


@pytest.fixture(scope="session")
def estimator(shared_directory: Path) -> Iterator[ServiceProcess]:
    """One estimator for all tests: its child takes seconds to import torch."""
    with starter(shared_directory) as start_one:
        yield start_one("estimator", WEIGHBRIDGE_ROLES="estimator")


@pytest_asyncio.fixture
async def estimator_channel(estimator: ServiceProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with connect(estimator.address(), token="gateway-token") as opened:
        yield opened


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
