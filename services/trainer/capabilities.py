"""What a worker of this trainer can import: capability is hardware *and* software.

Packages are imported in a child process: the serving process stays small, and one that kills its process
kills a child. What was found is kept as long as the same versions are installed.
"""

import asyncio
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.common import atomic
from services.common.errors import PeerUnavailable
from services.trainer.node import Software
from services.trainer.recipes import TASKS

log = logging.getLogger(__name__)

_TIMEOUT_S = 300.0
PROBE = (sys.executable, "-m", "services.trainer.probe")


class Capabilities:
    """Finds out what can be imported, once."""

    def __init__(self, packages: Sequence[str], remembered: Path, command: Sequence[str] = PROBE) -> None:
        """Ask `command`, which is given names of packages, and remember its answers in a file."""
        self._command = tuple(command)
        self._packages = tuple(packages)
        self._remembered = remembered
        self._probing = asyncio.Lock()
        self._software: Software | None = None

    async def software(self) -> Software:
        """Return what can be imported. The first call may take the time that importing it all takes.

        Raises:
            PeerUnavailable: what workers run in cannot be asked now.
        """
        async with self._probing:
            if self._software is None:
                self._software = _software(await self._findings())
            return self._software

    async def _findings(self) -> list[dict[str, Any]]:
        key = await asyncio.to_thread(_installed, self._packages, self._command)
        try:
            kept = json.loads(await asyncio.to_thread(self._remembered.read_bytes))
            if kept["installed"] == key:
                return list(kept["findings"])
        except (OSError, ValueError, KeyError, TypeError):
            log.info("probing what can be imported", extra={"packages": len(self._packages)})
        findings = await _probe_all(self._packages, self._command)
        await asyncio.to_thread(atomic.write_json, self._remembered, {"installed": key, "findings": findings})
        return findings


def _installed(packages: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return what the findings depend on: who is asked, the interpreter, and the packages' versions."""
    key = [*command, sys.version]
    for package in packages:
        try:
            key.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            key.append(f"{package} {'here' if importlib.util.find_spec(package) else 'absent'}")
    return key


async def _probe_all(packages: Sequence[str], command: Sequence[str]) -> list[dict[str, Any]]:
    """Probe the packages in one child process, and in another from after each one that kills it."""
    findings: list[dict[str, Any]] = []
    while len(findings) < len(packages):
        found, died = await _probe(packages[len(findings) :], command)
        findings.extend(found)
        if len(findings) < len(packages):
            findings.append({"package": packages[len(findings)], "error": f"importing it {died}"})
    return findings


async def _probe(packages: Sequence[str], command: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Return what a child found, and how it ended."""
    child = await asyncio.create_subprocess_exec(
        *(*command, *packages),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # Packages complain at length when they are imported; the error that counts is in the answer.
        stderr=asyncio.subprocess.DEVNULL,
    )
    output = b""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await child.communicate()
        ended = f"ended the process with status {child.returncode}"
    except TimeoutError:
        ended = f"took more than {_TIMEOUT_S:g} s"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    # Says nothing about the packages, and must not be remembered as if it did.
    if child.returncode == os.EX_TEMPFAIL:
        raise PeerUnavailable(output.decode(errors="replace"))
    return [json.loads(line) for line in output.splitlines()], ended


def _software(findings: Sequence[dict[str, Any]]) -> Software:
    return Software(
        tasks=TASKS,
        packages={found["package"]: found["version"] for found in findings if "version" in found},
        import_errors={found["package"]: found["error"] for found in findings if "error" in found},
        torch_cuda=next((found["cuda"] for found in findings if "cuda" in found), ""),
        report_time=datetime.now(UTC),
    )
