"""The nodes as they were a moment ago."""

import time

from gateway.ledger.engine import Ledger
from gateway.ledger.nodes import all_nodes
from gateway.nodes.node import FleetNode


class RecentNodes:
    """Spares the ledger a reading for each question that is about the fleet at large.

    A snapshot is seconds old when it arrives; nothing is placed by it.
    """

    def __init__(self, ledger: Ledger, keep_s: float) -> None:
        self._ledger = ledger
        self._keep_s = keep_s
        self._nodes: list[FleetNode] = []
        self._until = 0.0

    async def nodes(self) -> list[FleetNode]:
        """Return the nodes, read at most `keep_s` ago."""
        if time.monotonic() >= self._until:
            self._nodes = await self._ledger.read(all_nodes)
            self._until = time.monotonic() + self._keep_s
        return self._nodes
