"""A trainer whose runs do what a test says, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
from google.protobuf.empty_pb2 import Empty

from services.common.errors import NotFound, StaleAttempt
from services.common.names import parse_run
from tests.gateway.fake_models import FakeModels
from tests.gateway.faults import Faults, refuse
from weighbridge.common.v1 import artifacts_pb2
from weighbridge.trainer.v1 import resources_pb2, service_pb2, service_pb2_grpc

_FINAL = (
    resources_pb2.RUN_STATE_SUCCEEDED,
    resources_pb2.RUN_STATE_FAILED,
    resources_pb2.RUN_STATE_CANCELLED,
    resources_pb2.RUN_STATE_LOST,
)


class FakeRun:
    """A run and its events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = resources_pb2.RUN_STATE_ACCEPTED
        self.events: list[resources_pb2.RunEvent] = []
        self.changed = asyncio.Condition()

    @property
    def ended(self) -> bool:
        return self.state in _FINAL

    async def say(self, **event: Any) -> None:
        """Let an event happen."""
        message = resources_pb2.RunEvent(cursor=str(len(self.events) + 1), run=self.name, **event)
        message.time.GetCurrentTime()
        async with self.changed:
            self.events.append(message)
            self.changed.notify_all()


class FakeTrainer(FakeModels):
    """Runs that are started, and end when they are told to."""

    def __init__(self, release: Callable[[str], None]) -> None:
        super().__init__()
        self.faults = Faults()
        self.after_starting = Faults()
        self.runs: dict[str, FakeRun] = {}
        self.starts: list[service_pb2.StartRunRequest] = []
        self.cancelled: list[str] = []
        self.deleted: list[str] = []
        self.tombstones: dict[str, int] = {}
        self.stubborn = False
        """Whether a cancelled run goes on until the test ends it."""
        self.chats: list[service_pb2.ChatOpening] = []
        self.open_chats: set[str] = set()
        self._release = release
        self._closed = False

    def add_to(self, server: grpc.aio.Server) -> None:
        service_pb2_grpc.add_TrainerServiceServicer_to_server(self, server)

    def close(self) -> None:
        self._closed = True

    async def begin(self, run: str) -> None:
        """Let a run train."""
        await self.state(run, resources_pb2.RUN_STATE_RUNNING)

    async def progress(self, run: str, step: int) -> None:
        await self.runs[run].say(progress=resources_pb2.Progress(step=step, total_steps=100))

    async def checkpoint(self, run: str, tree: artifacts_pb2.FileTree, step: int) -> None:
        point = artifacts_pb2.Checkpoint(
            step=step, digest=tree.digest, size_bytes=tree.size_bytes, attempt=parse_run(run)[1]
        )
        await self.runs[run].say(checkpoint=point)

    async def succeed(self, run: str, artifact: artifacts_pb2.FileTree) -> None:
        await self.state(run, resources_pb2.RUN_STATE_SUCCEEDED, artifact=artifact)

    async def fail(self, run: str, reason: str) -> None:
        failure = artifacts_pb2.Failure(reason=reason, message=f"it failed: {reason}")
        await self.state(run, resources_pb2.RUN_STATE_FAILED, failure=failure)

    async def lose(self, run: str) -> None:
        failure = artifacts_pb2.Failure(reason="WORKER_LOST", message="its process vanished")
        await self.state(run, resources_pb2.RUN_STATE_LOST, failure=failure)

    async def state(self, run: str, state: resources_pb2.RunState.ValueType, **more: Any) -> None:
        found = self.runs[run]
        change = resources_pb2.StateChange(state=state, **more)
        if state in _FINAL:
            change.peaks.add(device="host", used_bytes=1, peak_bytes=77)
            self._release(run)
        found.state = state
        await found.say(state_change=change)

    async def StartRun(self, request: service_pb2.StartRunRequest, context: Any) -> resources_pb2.Run:
        await self.faults.strike("StartRun", context)
        job_id, attempt = parse_run(request.run)
        if attempt <= self.tombstones.get(job_id, 0):
            await refuse(context, StaleAttempt(request.run, self.tombstones[job_id]))
        self.starts.append(request)
        if request.run not in self.runs:
            self.runs[request.run] = FakeRun(request.run)
        await self.after_starting.strike("StartRun", context)
        return self._message(self.runs[request.run])

    async def GetRun(self, request: service_pb2.GetRunRequest, context: Any) -> resources_pb2.Run:
        await self.faults.strike("GetRun", context)
        if request.name not in self.runs:
            await refuse(context, NotFound(request.name))
        return self._message(self.runs[request.name])

    async def WatchRun(
        self, request: service_pb2.WatchRunRequest, context: Any
    ) -> AsyncIterator[service_pb2.WatchRunResponse]:
        await self.faults.strike("WatchRun", context)
        if request.name not in self.runs:
            await refuse(context, NotFound(request.name))
        run = self.runs[request.name]
        at = int(request.cursor or 0)
        while True:
            for event in run.events[at:]:
                at += 1
                yield service_pb2.WatchRunResponse(event=event)
                if event.state_change.state in _FINAL:
                    return
            async with run.changed:
                while len(run.events) == at:
                    await run.changed.wait()

    async def CancelRun(self, request: service_pb2.CancelRunRequest, context: Any) -> resources_pb2.Run:
        await self.faults.strike("CancelRun", context)
        self.cancelled.append(request.name)
        job_id, attempt = parse_run(request.name)
        self.tombstones[job_id] = max(attempt, self.tombstones.get(job_id, 0))
        run = self.runs.get(request.name)
        if run is None:
            return resources_pb2.Run(name=request.name, state=resources_pb2.RUN_STATE_CANCELLED)
        if not run.ended and not self.stubborn:
            await self.state(request.name, resources_pb2.RUN_STATE_CANCELLED)
        return self._message(run)

    async def DeleteRun(self, request: service_pb2.DeleteRunRequest, context: Any) -> Empty:
        self.deleted.append(request.name)
        return Empty()

    async def StreamLogs(
        self, request: service_pb2.StreamLogsRequest, context: Any
    ) -> AsyncIterator[service_pb2.StreamLogsResponse]:
        for number in range(3):
            line = resources_pb2.LogLine(offset=number + 1, text=f"{request.name} line {number}")
            if line.offset > request.offset:
                yield service_pb2.StreamLogsResponse(lines=[line])

    async def ClassifyImages(
        self, request: service_pb2.ClassifyImagesRequest, context: Any
    ) -> service_pb2.ClassifyImagesResponse:
        await self.faults.strike("ClassifyImages", context)
        score = resources_pb2.LabelScore(label=request.artifact_digest, probability=1.0)
        found = [resources_pb2.Classification(scores=[score]) for _ in request.images]
        return service_pb2.ClassifyImagesResponse(classifications=found)

    def _message(self, run: FakeRun) -> resources_pb2.Run:
        return resources_pb2.Run(name=run.name, state=run.state)

    async def ListRuns(
        self, request: service_pb2.ListRunsRequest, context: Any
    ) -> service_pb2.ListRunsResponse:
        await self.faults.strike("ListRuns", context)
        return service_pb2.ListRunsResponse()

    async def Chat(
        self, request: AsyncIterator[service_pb2.ChatRequest], context: Any
    ) -> AsyncIterator[service_pb2.ChatResponse]:
        opening = (await anext(aiter(request))).opening
        self.chats.append(opening)
        self.open_chats.add(opening.run)
        try:
            await self.faults.strike("Chat", context)
            yield service_pb2.ChatResponse(
                ready=service_pb2.ChatReady(context_tokens=9, notices=["be quick"])
            )
            async for said in request:
                answer = "stopped" if said.HasField("stop") else said.message.content
                yield service_pb2.ChatResponse(text=answer)
        finally:
            self.open_chats.discard(opening.run)
            self._release(opening.run)
