"""What nobody goes on with, and whose time is over, is cleared away."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from gateway.datasets.dataset import Upload
from gateway.dispatch.reign import Reign
from gateway.dispatch.sweeping import Sweeper
from gateway.jobs.job import Job, now
from gateway.jobs.jobs import artifact_owner
from gateway.jobs.states import JobState
from gateway.ledger import blobs, dispatcher, jobs, uploads
from gateway.ledger.engine import Ledger, Transaction
from gateway.packed import Packed
from gateway.settings import GatewaySettings
from services.common.store import BlobStore


async def assert_sweeping_ends_in(
    ledger: Ledger, store: BlobStore, done: Callable[[], Awaitable[bool]]
) -> None:
    epoch = await ledger.write(lambda tx: dispatcher.take(tx, "sweeper", 60))
    assert epoch is not None
    settings = GatewaySettings(sweep_delay_s=0, tick_s=0.05)
    sweeping = asyncio.create_task(Sweeper(settings, store)(Reign(ledger, epoch)))
    try:
        for _ in range(1000):
            await asyncio.sleep(0.03)
            if await done():
                break
        assert await done()
    finally:
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping


def job(name: str, state: JobState, **values: object) -> Job:
    return Job(
        id=name,
        project="p",
        caller="user/a",
        request_sha256="",
        spec=Packed(b""),
        task="sft",
        dataset="d",
        create_time=now(),
        state=state,
        **values,  # type: ignore[arg-type]
    )


async def test_an_upload_that_nothing_arrives_for_goes_with_its_parts(ledger: Ledger, tmp_path: Path) -> None:
    store = BlobStore(f"file://{tmp_path}/store")
    digest = store.put_bytes(b"half of it")
    upload = Upload(
        id="u1",
        project="p",
        dataset="d",
        size_bytes=20,
        committed_size=0,
        format=None,
        file_name="",
        caller="user/a",
        expire_time=now(),
    )
    await ledger.write(lambda tx: uploads.insert_upload(tx, upload))
    await blobs.claim(ledger.write, "upload/u1", "upload/u1/1", [digest])
    await ledger.write(lambda tx: uploads.add_part(tx, "u1", 0, 10, digest, now()))

    async def gone() -> bool:
        return await ledger.read(lambda tx: uploads.get_upload(tx, "u1")) is None and not store.exists(digest)

    await assert_sweeping_ends_in(ledger, store, gone)


async def test_an_artifact_goes_after_its_time_unless_a_live_job_starts_from_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    store = BlobStore(f"file://{tmp_path}/store")
    past = now() - timedelta(seconds=1)
    digests = {name: store.put_bytes(name.encode()) for name in ("old", "used")}
    for name, digest in digests.items():
        made = job(name, JobState.SUCCEEDED, artifact_digest=digest, expire_time=past)
        await ledger.write(lambda tx, made=made: jobs.insert_job(tx, made, {}))
        await blobs.claim(ledger.write, f"job/{name}", artifact_owner(name), [digest])
    user = job("user", JobState.RUNNING, base_job="used")
    await ledger.write(lambda tx: jobs.insert_job(tx, user, {}))

    async def old_is_gone() -> bool:
        return not store.exists(digests["old"])

    await assert_sweeping_ends_in(ledger, store, old_is_gone)
    assert store.exists(digests["used"])

    async def digests_left(tx: Transaction) -> list[str]:
        found = [await jobs.get_job(tx, name) for name in digests]
        return [each.artifact_digest for each in found if each is not None]

    assert await ledger.read(digests_left) == ["", digests["used"]]
