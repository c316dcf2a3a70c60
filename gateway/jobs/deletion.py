"""What is left of a deleted job on nodes."""

import logging
from collections.abc import Sequence

from gateway.dispatch.peers import Trainers
from gateway.jobs.job import Attempt
from gateway.ledger.engine import Ledger
from gateway.ledger.nodes import all_nodes
from services.common.errors import ServiceError

log = logging.getLogger(__name__)


async def delete_runs(ledger: Ledger, trainers: Trainers, attempts: Sequence[Attempt]) -> None:
    """Remove the run directories of a deleted job's attempts, as far as their nodes can be reached."""
    nodes = {node.name: node for node in await ledger.read(all_nodes)}
    for attempt in attempts:
        if attempt.node not in nodes:
            continue
        try:
            await trainers.delete_run(nodes[attempt.node].trainer_address, attempt.run)
        except ServiceError as error:
            # Logs and local files stay behind on that node; nothing refers to them.
            log.info("run not deleted", extra={"run": attempt.run, "error": str(error)})
