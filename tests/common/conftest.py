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
from weighbridge.gateway.v1 import service_pb2_grpc

JOBS = "projects/research/trainingJobs"
SERVICE = "/weighbridge.gateway.v1.TrainingService"
Start = Callable[..., ServiceProcess]

ENTRIES = [
    {
        "identity": "user",
        "name": "alice",
        "token_sha256": hash_token("alice-token"),
        "methods": [f"{SERVICE}/*", "/grpc.reflection.v1alpha.ServerReflection/*"],
        "projects": ["research"],
    },
    {
        "identity": "trainer",
        "token_sha256": hash_token("trainer-token"),
        "methods": [f"{SERVICE}/Get*"],
        "projects": ["*"],
    },
    {
        "identity": "gateway",
        "token_sha256": hash_token("gateway-token"),
        "methods": [f"{SERVICE}/*"],
        "projects": ["*"],
    },
]


@contextlib.contextmanager
def starter(directory: Path) -> Iterator[Start]:
    """Starts sample servers; each gets its own state directory, `directory / name`."""
    identities = directory / "identities.json"
    identities.write_text(json.dumps({"identities": ENTRIES}))
    (directory / "gateway.token").write_text("gateway-token\n")
    with contextlib.ExitStack() as stack:

        def start_one(name: str = "sample", **settings: str) -> ServiceProcess:
            state = directory / name
            state.mkdir(exist_ok=True)
            environment = {
                "WEIGHBRIDGE_IDENTITIES_FILE": str(identities),
                "WEIGHBRIDGE_TOKEN_FILE": str(directory / "gateway.token"),
                "WEIGHBRIDGE_STATE_DIR": str(state),
                "WEIGHBRIDGE_DRAIN": "0",
                "WEIGHBRIDGE_GRACE": "0",
                **settings,
            }
            log = directory / f"{name}.log"
            return stack.enter_context(service("tests.common.sample_server", environment, log))

        yield start_one


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starter(tmp_path) as start_one:
        yield start_one


@pytest.fixture
def sample(start: Start) -> ServiceProcess:
    """A server of the test's own, for those that read its log or end it."""
    return start()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with starter(tmp_path_factory.mktemp("shared")) as start_one:
        yield start_one()


@pytest_asyncio.fixture
async def channel(shared: ServiceProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with connect(shared.address(), token="alice-token") as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "service_pb2_grpc.TrainingServiceAsyncStub":
    return service_pb2_grpc.TrainingServiceStub(channel)


@pytest_asyncio.fixture
async def own_stub(sample: ServiceProcess) -> AsyncIterator["service_pb2_grpc.TrainingServiceAsyncStub"]:
    """A stub for `sample`."""
    async with connect(sample.address(), token="alice-token") as opened:
        yield service_pb2_grpc.TrainingServiceStub(opened)


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago, for servers that cannot say which one they chose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
