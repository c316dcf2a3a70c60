import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.specs import DeviceKind
from services.common.wire import to_domain, to_message
from services.hardware.admission.approvals import Signer
from services.hardware.admission.desk import Desk
from services.hardware.admission.promises import Promises
from services.hardware.admission.snapshot import Identity
from services.hardware.admission.view import NodeView
from services.hardware.inventory.survey import Survey
from services.hardware.resources import Node
from services.hardware.units import GIB, MIB
from services.hardware.weighing import Decision, Estimate
from tests.hardware.inventory.fake_nvml import FakeGpu, FakeNvml
from tests.hardware.inventory.machine import Machine
from tests.hardware.samples import SOFTWARE, estimate, placed, resolved_bytes
from weighbridge.hardware.v1 import resources_pb2

SPEC = resolved_bytes()
NEEDS = estimate(host_bytes=GIB, gpu_bytes=30 * GIB)
SHARED = resolved_bytes(placement=placed(DeviceKind.CUDA, shared=True))


class Office:
    """A desk on a machine with one GPU of 80 GiB, of which 1 is used by somebody else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gpu = FakeGpu()
        survey = Survey(directory, Machine(directory / "machine").roots, FakeNvml(self.gpu))
        self.promises = Promises(directory / "state", held_ttl_s=60)
        identity = Identity("nodes/lab-1", "127.0.0.1:1", {"disk": 10 * GIB})
        self.view = NodeView(identity, survey, self.promises)
        self.view.report_trainer("127.0.0.1:2", SOFTWARE)
        signer = Signer.load(directory / "key.pem", "nodes/lab-1")
        self.desk = Desk(self.view, self.promises, signer, held_ttl_s=60)

    async def reserve(self, run: str, spec: bytes = SPEC, needs: Estimate = NEEDS) -> Decision:
        verdict, approval = await self.desk.reserve(run, spec, needs)
        if approval is not None:
            await self.desk.activate(approval.token, hashlib.sha256(spec).hexdigest(), run)
        return verdict.decision


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.promises.close()


async def test_a_gpu_is_reserved_by_its_uuid_and_belongs_to_one_run(office: Office) -> None:
    await office.desk.adopt([])
    assert await office.reserve("runs/a-1") is Decision.ADMIT
    (held,) = office.desk.holding()
    assert {a.device: a.reserved_bytes for a in held.amounts} == {"GPU-0": 30 * GIB, "host": GIB, "disk": 0}
    assert await office.reserve("runs/b-1") is Decision.WAIT
    await office.desk.release("runs/a-1")
    assert await office.reserve("runs/b-1") is Decision.ADMIT


async def test_runs_that_agree_share_a_gpu_as_long_as_it_lasts(office: Office) -> None:
    await office.desk.adopt([])
    assert [await office.reserve(f"runs/{job}-1", SHARED) for job in "abc"] == ["admit", "admit", "wait"]


async def test_a_foreign_process_on_the_gpu_is_never_ignored(office: Office) -> None:
    await office.desk.adopt([])
    office.gpu.used = 55 * GIB
    assert await office.reserve("runs/a-1") is Decision.WAIT
    office.gpu.used = 45 * GIB
    assert await office.reserve("runs/a-1") is Decision.ADMIT


async def test_what_a_run_reports_of_its_gpu_is_not_counted_as_foreign(office: Office) -> None:
    await office.desk.adopt([])
    await office.reserve("runs/a-1", SHARED)
    office.gpu.used = 26 * GIB
    office.desk.report_usage("runs/a-1", {"GPU-0": 25 * GIB})
    device = next(d for d in (await office.view.read()).devices if d.id == "GPU-0")
    assert (device.held_bytes, device.outside_bytes, device.available_bytes) == (30 * GIB, GIB, 49 * GIB)


async def test_what_the_disk_refuses_is_not_promised(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    await office.desk.adopt([])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        await office.reserve("runs/a-1")
    assert office.desk.holding() == []
    monkeypatch.undo()
    assert await office.reserve("runs/a-1") is Decision.ADMIT


async def test_nothing_is_promised_before_the_journal_is_known(office: Office) -> None:
    assert await office.reserve("runs/a-1") is Decision.WAIT
    assert not office.desk.knows_promises


async def test_a_long_life_does_not_make_a_long_journal(office: Office) -> None:
    await office.desk.adopt([])
    small = estimate(host_bytes=MIB, gpu_bytes=MIB)
    await office.reserve("runs/stays-1", SHARED, small)
    for number in range(400):
        await office.reserve(f"runs/a-{number + 1}", SHARED, small)
        await office.desk.release(f"runs/a-{number + 1}")
    lines = (office.directory / "state" / "reservations.jsonl").read_text().count("\n")
    assert lines < 1100
    assert [held.run for held in office.desk.holding()] == ["runs/stays-1"]


async def test_a_node_survives_the_wire(office: Office) -> None:
    await office.desk.adopt([])
    await office.reserve("runs/a-1")
    node = await office.view.read()
    assert to_domain(Node, to_message(node, resources_pb2.Node)) == node
