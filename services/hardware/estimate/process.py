"""The child process that reads model configurations, as the serving process sees it.

It is started with the service, so that its imports are done when the first spec comes, and started again when
it dies. Requests go through it one at a time. It gets no credential: what it reads was written by strangers.
"""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from typing import NamedTuple

from services.common.errors import BY_REASON, Draining, ServiceError
from services.common.settings import PREFIX, CommonSettings
from services.hardware.estimate.errors import EstimateDied
from services.hardware.estimate.frames import HEADER, Kind, pack

log = logging.getLogger(__name__)

# What torch, transformers and the hub's library are configured by; everything else stays out.
_PASSED_ON = {
    *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH"),
    *("XDG_CACHE_HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}
# Importing torch and transformers takes seconds, on a cold disk half a minute.
_IMPORT_S = 180.0


class EstimatorProcess:
    """Sends requests to the child. `work` must run for `call` to be answered."""

    def __init__(self, settings: CommonSettings, timeout_s: float) -> None:
        self._environment = _environment(settings)
        self._timeout_s = timeout_s
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue()
        self._pending: set[asyncio.Future[bytes]] = set()

    async def call(self, kind: Kind, request: bytes) -> bytes:
        """Return the child's answer.

        Raises:
            ServiceError: whatever the child found wrong with the request.
            EstimateDied: the child died of it, or took longer than the timeout.
            Draining: the service ends.
        """
        # The caller waits for this alone and may stop waiting: the child is read to the end either way.
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        await self._waiting.put(_Request(kind, request, answer))
        return await answer

    async def work(self) -> None:
        """Keep a child and feed it, until cancelled."""
        try:
            while True:
                await self._live_once()
        finally:
            for answer in tuple(self._pending):
                _refuse(answer, Draining())

    async def _live_once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.hardware.estimate.child"),
            stdin=PIPE,
            stdout=PIPE,
            env=self._environment,
        )
        try:
            await self._feed(process)
        finally:
            # It holds nothing that would have to be put in order.
            if process.returncode is None:
                process.kill()
            await process.wait()
        log.warning("estimator process ended", extra={"status": process.returncode})

    async def _feed(self, process: Process) -> None:
        """Pass requests on until the child dies or has to be ended."""
        try:
            async with asyncio.timeout(_IMPORT_S):
                await _receive(process)
        except (TimeoutError, asyncio.IncompleteReadError):
            # Waits for one, so that a child that cannot start is not started in a circle.
            unlucky = await self._waiting.get()
            _refuse(unlucky.answer, EstimateDied(1, "its process did not start"))
            return
        while (request := await self._next(process)) is not None:
            # Its caller may have left while it waited for its turn.
            if not request.answer.done() and not await self._serve(process, request):
                return

    async def _next(self, process: Process) -> "_Request | None":
        """Return the next request, or None when the child died while nobody asked."""
        asking = asyncio.ensure_future(self._waiting.get())
        dying = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({asking, dying}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            dying.cancel()

    async def _serve(self, process: Process, request: "_Request") -> bool:
        """Answer one request; return whether the child is still of use."""
        started = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await _send(process, request)
                started = bool(await _receive(process))
                kind, body = await _receive(process)
        except TimeoutError:
            _refuse(request.answer, EstimateDied(1, f"it took longer than {self._timeout_s:g} s"))
            return False
        except (asyncio.IncompleteReadError, ConnectionError):
            status = await process.wait()
            if started:
                _refuse(request.answer, EstimateDied(1, f"its process ended with status {status}"))
            else:
                # It died before it read this request: the next one gets it.
                await self._waiting.put(request)
            return False
        if kind is Kind.REFUSAL:
            _refuse(request.answer, _error(body))
        elif not request.answer.done():
            request.answer.set_result(body)
        return True


class _Request(NamedTuple):
    kind: Kind
    body: bytes
    answer: asyncio.Future[bytes]


async def _send(process: Process, request: _Request) -> None:
    assert process.stdin is not None
    process.stdin.write(pack(request.kind, request.body))
    await process.stdin.drain()


async def _receive(process: Process) -> tuple[Kind, bytes]:
    assert process.stdout is not None
    kind, size = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
    return Kind(kind), await process.stdout.readexactly(size)


def _refuse(answer: asyncio.Future[bytes], error: ServiceError) -> None:
    if not answer.done():
        answer.set_exception(error)


def _error(body: bytes) -> ServiceError:
    refusal = json.loads(body)
    cls = BY_REASON.get(refusal["reason"])
    return EstimateDied(1, refusal["message"]) if cls is None else cls(**refusal["fields"])


def _environment(settings: CommonSettings) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name in _PASSED_ON},
        f"{PREFIX}STORE_URL": settings.store_url,
        f"{PREFIX}MODEL_ROOT": str(settings.model_root),
        f"{PREFIX}SECRETS_DIR": str(settings.secrets_dir),
        f"{PREFIX}LOG_FORMAT": settings.log_format,
        # A model is never computed here, and a CUDA context would take memory from jobs.
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
