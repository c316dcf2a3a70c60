"""Start, drain, restart and failure of a server's process."""

import asyncio
import signal
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.channels import connect
from services.common.errors import Draining
from services.common.rpc import from_rpc_error
from tests.common.conftest import JOBS, Start
from tests.common.processes import ROOT, ServiceProcess, wait_for
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
FINE = service_pb2.GetTrainingJobRequest(name=f"{JOBS}/fine")


def health_changes(channel: grpc.aio.Channel) -> Any:
    return aiter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))


async def test_drain_tells_health_first_and_serves_until_everybody_has_heard(start: Start) -> None:
    sample = start(WEIGHBRIDGE_DRAIN="1.5", WEIGHBRIDGE_GRACE="10")
    async with (
        grpc.aio.insecure_channel(sample.address()) as plain,
        grpc.aio.insecure_channel(sample.address()) as other,
    ):
        first, second = health_changes(plain), health_changes(other)
        assert [(await anext(each)).status for each in (first, second)] == [SERVING, SERVING]
        sample.terminate()
        assert [(await anext(each)).status for each in (first, second)] == [NOT_SERVING, NOT_SERVING]
        # Whoever has not looked yet is still served.
        stub = service_pb2_grpc.TrainingServiceStub(plain)
        token = (("authorization", "Bearer alice-token"),)
        assert (await stub.GetTrainingJob(FINE, metadata=token)).name == FINE.name
    assert await asyncio.to_thread(sample.process.wait) == 0
    messages = [sample.records(message) for message in ("draining", "stopped")]
    assert [len(found) for found in messages] == [1, 1]


async def test_watchers_that_stay_hear_of_the_drain_after_one_has_left(start: Start) -> None:
    sample = start(WEIGHBRIDGE_DRAIN="1")
    async with grpc.aio.insecure_channel(sample.address()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        leaves, stays = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        assert [(await anext(aiter(each))).status for each in (leaves, stays)] == [SERVING, SERVING]
        leaves.cancel()
        await stub.Check(health_pb2.HealthCheckRequest())
        sample.terminate()
        assert (await anext(aiter(stays))).status == NOT_SERVING


async def test_calls_in_flight_end_within_the_grace(start: Start, tmp_path: Path) -> None:
    sample = start(WEIGHBRIDGE_GRACE="30")
    async with connect(sample.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        call = stub.ResumeTrainingJob(service_pb2.ResumeTrainingJobRequest(name=f"{JOBS}/fine"))
        await asyncio.to_thread(wait_for, (tmp_path / "sample" / "resumed").exists)
        sample.terminate()
        assert (await call).name == f"{JOBS}/fine"


async def test_a_watch_ends_at_the_drain_and_says_so(start: Start) -> None:
    sample = start(WEIGHBRIDGE_GRACE="60")
    async with connect(sample.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        watch = stub.WatchTrainingJob(service_pb2.WatchTrainingJobRequest(name=f"{JOBS}/slow"))
        events = aiter(watch)
        await anext(events)
        sample.terminate()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(events)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(from_rpc_error(caught.value), Draining)
    assert await asyncio.to_thread(sample.process.wait) == 0


async def test_a_watch_ends_at_the_drain_even_while_it_sends(start: Start) -> None:
    sample = start(WEIGHBRIDGE_GRACE="60")
    async with connect(sample.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        lines = aiter(stub.StreamTrainingLogs(service_pb2.StreamTrainingLogsRequest(name=f"{JOBS}/fine")))
        # Nothing is read for a while: the server is stuck in sending.
        await anext(lines)
        sample.terminate()
        await asyncio.to_thread(wait_for, lambda: sample.records("draining"))
        await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await exhaust(lines)
    assert isinstance(from_rpc_error(caught.value), Draining)
    assert await asyncio.to_thread(sample.process.wait) == 0


async def exhaust(stream: Any) -> None:
    async for _ in stream:
        pass


class Load:
    """Calls without a pause, and which server answered."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any = None) -> None:
        self._stub = service_pb2_grpc.TrainingServiceStub(channel)
        self._metadata = metadata
        self._task = asyncio.create_task(self._call())
        self.answers: list[str] = []
        self.errors: list[grpc.aio.AioRpcError] = []

    async def _call(self) -> None:
        while True:
            try:
                job = await self._stub.GetTrainingJob(FINE, metadata=self._metadata, timeout=30)
                self.answers.append(job.spec_sha256)
            except grpc.aio.AioRpcError as error:
                self.errors.append(error)

    async def sees(self, name: str) -> None:
        """Wait until `name` answers."""
        begin = len(self.answers)
        await asyncio.to_thread(wait_for, lambda: name in self.answers[begin:])

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def addresses(*samples: ServiceProcess) -> str:
    return "ipv4:" + ",".join(sample.address() for sample in samples)


async def test_a_rolling_restart_under_load_loses_no_request(start: Start) -> None:
    samples = {name: start(name, WEIGHBRIDGE_DRAIN="1.5", WEIGHBRIDGE_GRACE="10") for name in ("one", "two")}
    config = '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'
    # No retries: what is shown is that none is needed.
    options = [("grpc.service_config", config), ("grpc.enable_retries", 0)]
    token = (("authorization", "Bearer alice-token"),)
    async with grpc.aio.insecure_channel(addresses(*samples.values()), options=options) as channel:
        loads = [Load(channel, token) for _ in range(4)]
        for name, sample in samples.items():
            await loads[0].sees(name)
            port = sample.address().rpartition(":")[2]
            sample.terminate()
            assert await asyncio.to_thread(sample.process.wait) == 0
            restarted = start(name, WEIGHBRIDGE_PORT=port, WEIGHBRIDGE_DRAIN="0")
            await asyncio.to_thread(lambda s=restarted: wait_for(lambda: len(s.records("serving")) == 2))
            await loads[0].sees(name)
        for load in loads:
            await load.stop()
    assert [error.details() for load in loads for error in load.errors] == []
    assert sum(len(load.answers) for load in loads) > 100


async def test_a_killed_server_loses_no_request_where_calls_are_retried(start: Start) -> None:
    one, two = start("one"), start("two")
    async with connect(addresses(one, two), token="alice-token") as channel:
        load = Load(channel)
        await load.sees("one")
        await load.sees("two")
        one.kill()
        await load.sees("two")
        await asyncio.sleep(0.5)
        await load.stop()
    assert [error.details() for error in load.errors] == []


def test_a_taken_port_ends_the_second_server(start: Start) -> None:
    one = start("one")
    two = start("two", WEIGHBRIDGE_PORT=one.address().rpartition(":")[2])
    assert two.process.wait() != 0
    assert "address already in use" in two.log().lower()


def test_failing_background_work_ends_the_service(start: Start) -> None:
    sample = start(SAMPLE_FAIL="1")
    assert sample.process.wait() == 1
    assert "the background broke" in sample.log()
    assert sample.records("stopped")


def test_an_interrupt_drains_like_a_termination(start: Start) -> None:
    sample = start()
    sample.address()
    sample.process.send_signal(signal.SIGINT)
    assert sample.process.wait() == 0
    assert sample.records("stopped")


def test_a_plaintext_bind_beyond_loopback_is_refused(start: Start) -> None:
    sample = start(WEIGHBRIDGE_HOST="0.0.0.0")
    assert sample.process.wait() != 0
    assert "would send tokens in plaintext" in sample.log()


async def test_over_tls_only_those_who_trust_the_authority_connect(start: Start, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    pair = {"WEIGHBRIDGE_TLS_CERT": str(certificate), "WEIGHBRIDGE_TLS_KEY": str(key)}
    sample = start(WEIGHBRIDGE_HOST="0.0.0.0", **pair)
    address = "localhost:" + sample.address().rpartition(":")[2]
    async with connect(address, token="alice-token", tls=certificate) as channel:
        assert (await service_pb2_grpc.TrainingServiceStub(channel).GetTrainingJob(FINE)).name == FINE.name
    async with connect(address, token="alice-token") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service_pb2_grpc.TrainingServiceStub(channel).GetTrainingJob(FINE)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Write a certificate for localhost and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pkcs8 = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(private.private_bytes(serialization.Encoding.PEM, *pkcs8))
    return paths


def test_a_server_without_identities_does_not_start(start: Start, tmp_path: Path) -> None:
    sample = start(WEIGHBRIDGE_IDENTITIES_FILE=str(tmp_path / "none.json"))
    assert sample.process.wait() != 0
    assert "none.json" in sample.log()


async def test_probes_are_answered_on_a_port_of_their_own(start: Start, unused_port: int) -> None:
    sample = start(WEIGHBRIDGE_HEALTH_PORT=str(unused_port))
    sample.address()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{unused_port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == SERVING
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTrainingJob(FINE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_count_calls_by_method_and_code(start: Start, unused_port: int) -> None:
    sample = start(WEIGHBRIDGE_METRICS_PORT=str(unused_port))
    async with connect(sample.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        await stub.GetTrainingJob(FINE)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetTrainingJob(service_pb2.GetTrainingJobRequest(name=f"{JOBS}/missing"))
    text = await asyncio.to_thread(scrape, unused_port)
    method = 'method="/weighbridge.gateway.v1.TrainingService/GetTrainingJob"'
    assert f'weighbridge_calls_total{{code="OK",{method}}} 1.0' in text
    assert f'weighbridge_calls_total{{code="NOT_FOUND",{method}}} 1.0' in text
    assert f"weighbridge_call_duration_seconds_count{{{method}}} 2.0" in text
    assert f"weighbridge_calls_in_flight{{{method}}} 0.0" in text


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())


def test_common_imports_nothing_heavy() -> None:
    modules = [path.stem for path in (ROOT / "services" / "common").glob("*.py") if path.stem != "__init__"]
    imports = "".join(f"import services.common.{name}\n" for name in modules)
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'opentelemetry', 'sqlalchemy'}"
    script = f"{imports}import sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
