"""A real server over a real contract, whose jobs' ids say what is to happen: `…/trainingJobs/missing`."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.common.auth import current_caller
from services.common.channels import connect
from services.common.context import current_request_id, spawn, time_remaining_s
from services.common.errors import InvalidRequest, NotFound, PeerUnavailable, QuotaExceeded
from services.common.names import parse_job
from services.common.server import Registered, run
from services.common.settings import CommonSettings
from weighbridge.gateway.v1 import resources_pb2, service_pb2, service_pb2_grpc
from weighbridge.trainer.v1 import resources_pb2 as trainer_resources_pb2

NAME = "weighbridge.gateway.v1.TrainingService"


class SampleServicer(service_pb2_grpc.TrainingServiceServicer):
    def __init__(self, channel: Any, marks: Path) -> None:
        self._next = None if channel is None else service_pb2_grpc.TrainingServiceStub(channel)
        self._marks = marks
        self._unavailable = 2

    async def GetTrainingJob(self, request: service_pb2.GetTrainingJobRequest, context: Any) -> Any:
        _, behaviour = parse_job(request.name)
        await getattr(self, behaviour)(request.name)
        # What this process knows of the call, in fields that happen to be text.
        caller = current_caller()
        return resources_pb2.TrainingJob(
            name=request.name,
            caller=f"{caller.identity}/{caller.name}/{','.join(caller.projects)}",
            display_name=current_request_id(),
            spec_sha256=self._marks.name,
            metrics={"remaining_s": time_remaining_s() or -1.0},
        )

    async def fine(self, name: str) -> None:
        await asyncio.sleep(0.01)

    async def missing(self, name: str) -> None:
        raise NotFound(name)

    async def broken(self, name: str) -> None:
        raise ZeroDivisionError("the password is swordfish")

    async def quota(self, name: str) -> None:
        raise QuotaExceeded("jobs", 5, retry_after_s=2.5)

    async def verbose(self, name: str) -> None:
        raise InvalidRequest({f"field_{i}": "é" * 5000 for i in range(1000)})

    async def slow(self, name: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            (self._marks / "cancelled").touch()
            raise

    async def flaky(self, name: str) -> None:
        (self._marks / f"flaky-{self._unavailable}").touch()
        self._unavailable -= 1
        if self._unavailable >= 0:
            raise PeerUnavailable("nodes/one")

    async def spawned(self, name: str) -> None:
        async def outlive() -> None:
            found = f"{time_remaining_s()} {current_request_id()!r}"
            await asyncio.to_thread((self._marks / "spawned").write_text, found)

        await spawn(outlive(), "outlive")

    async def CancelTrainingJob(self, request: service_pb2.CancelTrainingJobRequest, context: Any) -> Any:
        assert self._next is not None
        return await self._next.GetTrainingJob(service_pb2.GetTrainingJobRequest(name=request.name))

    async def CheckTrainingJob(self, request: service_pb2.CheckTrainingJobRequest, context: Any) -> Any:
        return service_pb2.CheckTrainingJobResponse()

    async def ResumeTrainingJob(self, request: service_pb2.ResumeTrainingJobRequest, context: Any) -> Any:
        # Writes down that it was reached, and stays until the process stops.
        await asyncio.to_thread((self._marks / "resumed").touch)
        await asyncio.sleep(1)
        return resources_pb2.TrainingJob(name=request.name)

    async def WatchTrainingJob(
        self, request: service_pb2.WatchTrainingJobRequest, context: Any
    ) -> AsyncIterator[service_pb2.WatchTrainingJobResponse]:
        yield service_pb2.WatchTrainingJobResponse()
        _, behaviour = parse_job(request.name)
        await getattr(self, behaviour)(request.name)
        yield service_pb2.WatchTrainingJobResponse()

    async def StreamTrainingLogs(
        self, request: service_pb2.StreamTrainingLogsRequest, context: Any
    ) -> AsyncIterator[service_pb2.StreamTrainingLogsResponse]:
        line = trainer_resources_pb2.LogLine(text="x" * (1 << 20))
        while True:
            yield service_pb2.StreamTrainingLogsResponse(lines=[line])

    async def WriteUpload(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        size = 0
        async for chunk in request_iterator:
            size += len(chunk.data)
        return resources_pb2.Upload(committed_size=size)


async def main() -> None:
    settings = CommonSettings()
    target = os.environ.get("SAMPLE_NEXT")
    channel = None
    if target is not None:
        channel = connect(target, token=settings.token(), forward_caller=True)
    servicer = SampleServicer(channel, settings.state_dir)
    registered = Registered(service_pb2_grpc.add_TrainingServiceServicer_to_server, servicer, NAME)
    background = [fail] if "SAMPLE_FAIL" in os.environ else []
    await run(
        settings, [registered], background=background, on_stop=None if channel is None else channel.close
    )


async def fail() -> None:
    await asyncio.sleep(0.1)
    raise RuntimeError("the background broke")


if __name__ == "__main__":
    asyncio.run(main())
