"""What the worker printed, as StreamLogs gives it."""

from pathlib import Path

import pytest

from services.trainer.runs.logs import LogLine, read_lines
from tests.trainer.harness import RUNNING, Trainer
from weighbridge.trainer.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def lines(
    trainer: Trainer, name: str, offset: int = 0, follow: bool = False
) -> list[resources_pb2.LogLine]:
    request = service_pb2.StreamLogsRequest(name=name, offset=offset, follow=follow)
    return [line async for response in trainer.stub.StreamLogs(request) for line in response.lines]


async def test_a_log_is_followed_to_its_end(shared: Trainer, name: str) -> None:
    await shared.run(name, ["say", "one\n"], ["started"], ["sleep", 1], ["say", "two\nthree"], ["succeed"])
    await shared.until(name, RUNNING)
    assert [line.text for line in await lines(shared, name)] == ["one"]
    followed = await lines(shared, name, follow=True)
    assert [line.text for line in followed] == ["one", "two", "three"]
    assert [line.offset for line in followed] == [4, 8, 13]
    assert [line.text for line in await lines(shared, name, offset=4)] == ["two", "three"]


async def test_a_run_that_printed_nothing_has_an_empty_log(shared: Trainer, name: str) -> None:
    await shared.run(name, ["succeed"])
    assert await lines(shared, name, follow=True) == []


async def test_lines_without_an_end_come_in_pieces(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"x" * 40_000 + b"\xff\r\nrest")
    found = read_lines(log, 0, ended=False)
    assert "".join(line.text for line in found) == "x" * 40_000 + "\ufffd"
    assert read_lines(log, found[-1].offset, ended=False) == []
    assert read_lines(log, found[-1].offset, ended=True) == [LogLine(offset=40_007, text="rest")]
