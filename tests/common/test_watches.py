import asyncio

import pytest

from services.common.errors import Draining
from services.common.watches import Watches

WATCH = "/weighbridge.trainer.v1.TrainerService/WatchRun"


async def test_a_waiting_watch_is_ended_at_once() -> None:
    watches = Watches()

    async def watch() -> None:
        with watches.entered(WATCH):
            await asyncio.Event().wait()

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    watches.end()
    with pytest.raises(Draining):
        await task


async def test_a_watch_that_sends_is_ended_only_when_the_message_is_sent() -> None:
    # Cancelled while sending, grpc refuses the status (TOO_MANY_OPERATIONS): the caller waits out the grace.
    watches, sent = Watches(), asyncio.Event()
    completed = []

    async def watch() -> None:
        with watches.entered(WATCH), watches.writing():
            await sent.wait()
            completed.append("sent")

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    watches.end()
    await asyncio.sleep(0)
    assert not task.done()
    sent.set()
    with pytest.raises(Draining):
        await task
    assert completed == ["sent"]


@pytest.mark.parametrize("method", ["WriteUpload", "DownloadArtifact", "GetRun"])
async def test_calls_that_end_by_themselves_are_left_alone(method: str) -> None:
    watches, finish = Watches(), asyncio.Event()

    async def call() -> str:
        with watches.entered(f"/weighbridge.trainer.v1.TrainerService/{method}"), watches.writing():
            await finish.wait()
            return "done"

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    watches.end()
    finish.set()
    assert await task == "done"


async def test_a_caller_who_leaves_is_not_mistaken_for_the_drain() -> None:
    watches = Watches()

    async def watch() -> None:
        with watches.entered(WATCH):
            await asyncio.Event().wait()

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
