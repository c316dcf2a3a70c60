import asyncio
import contextlib
import hashlib
import random
from pathlib import Path

import grpc.aio

from services.hardware.weighing import Decision
from tests.hardware.conftest import Start
from tests.hardware.reserving import CAPACITY, SPEC, calling

SHA = hashlib.sha256(SPEC).hexdigest()
JOURNAL = "lab-1/reservations.jsonl"


async def test_a_killed_node_forgets_no_reservation_and_invents_none(start: Start) -> None:
    server = start(**CAPACITY)
    async with calling(server) as caller:
        held = await caller.reserve("runs/held-1", 100)
        active = await caller.reserve("runs/active-1", 200)
        await caller.activate("runs/active-1", active.token, SHA)
        await caller.reserve("runs/over-1", 100)
        await caller.release("runs/over-1")
    server.kill()
    async with calling(start(**CAPACITY)) as caller:
        assert await caller.held() == {"runs/active-1": "active", "runs/held-1": "held"}
        # What it signed before is good after, and memory is still full by as much.
        assert (await caller.activate("runs/held-1", held.token, SHA)).state == "active"
        assert (await caller.activate("runs/active-1", active.token, SHA)).state == "active"
        assert (await caller.reserve("runs/b-1", 750)).decision is Decision.WAIT
        assert (await caller.reserve("runs/b-1", 690)).decision is Decision.ADMIT


async def test_the_time_of_a_held_reservation_starts_anew_with_the_service(start: Start) -> None:
    settings = {"WEIGHBRIDGE_HELD_TTL": "30", **CAPACITY}
    server = start(**settings)
    async with calling(server) as caller:
        await caller.reserve("runs/a-1", 100)
        before = (await caller.node()).reservations[0].expire_time
    server.kill()
    async with calling(start(**settings)) as caller:
        after = (await caller.node()).reservations[0].expire_time
        assert before is not None
        assert after is not None
        assert after > before


async def test_kills_in_the_middle_of_reserves_lose_and_invent_nothing(start: Start) -> None:
    acknowledged: set[str] = set()
    asked: set[str] = set()
    chance = random.Random(7)
    for life in range(3):
        server = start(**CAPACITY)
        async with calling(server) as caller:
            killing = asyncio.create_task(asyncio.sleep(chance.uniform(0.02, 0.2)))
            number = 0
            while not killing.done():
                run = f"runs/l{life}n{number}-1"
                asked.add(run)
                if (await caller.reserve(run, 1)).decision is Decision.ADMIT:
                    acknowledged.add(run)
                number += 1
            # One is under way when the end comes.
            asked.add(f"runs/l{life}last-1")
            dying = asyncio.ensure_future(caller.reserve(f"runs/l{life}last-1", 1))
            await asyncio.sleep(chance.uniform(0, 0.004))
            server.kill()
            dying.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await dying
    async with calling(start(**CAPACITY)) as caller:
        node = await caller.node()
        held = {reservation.run for reservation in node.reservations}
    assert acknowledged
    assert acknowledged <= held <= asked


async def test_a_line_torn_by_a_crash_is_no_obstacle(start: Start, tmp_path: Path) -> None:
    server = start(**CAPACITY)
    async with calling(server) as caller:
        await caller.reserve("runs/a-1", 100)
    server.kill()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"event":"held","id":"x","ru')
    async with calling(start(**CAPACITY)) as caller:
        assert await caller.held() == {"runs/a-1": "held"}
        await caller.reserve("runs/b-1", 100)
        assert await caller.held() == {"runs/a-1": "held", "runs/b-1": "held"}


async def test_a_second_service_on_the_same_state_ends_at_once(start: Start, tmp_path: Path) -> None:
    async with calling(start(**CAPACITY)) as caller:
        (tmp_path / "lab-1.log").write_text("")
        second = start(**CAPACITY)
        assert await asyncio.to_thread(second.process.wait) != 0
        assert "another hardware service" in second.log()
        assert (await caller.reserve("runs/a-1", 1)).decision is Decision.ADMIT


async def test_a_node_that_is_asked_to_stop_leaves_cleanly(start: Start) -> None:
    server = start(**CAPACITY)
    async with calling(server) as caller:
        await caller.reserve("runs/a-1", 100)
        server.terminate()
        assert await asyncio.to_thread(server.process.wait) == 0
    async with calling(start(**CAPACITY)) as caller:
        assert await caller.held() == {"runs/a-1": "held"}
