"""Which nodes answer for their caches."""

from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.nodes import all_nodes, get_node
from gateway.nodes.node import FleetNode
from services.common.errors import NotFound, PeerUnavailable

EVERY = "nodes/-"


async def trainer_on(ledger: Ledger, name: str) -> str:
    """Return the address of a node's trainer.

    Raises:
        NotFound: there is no such node.
        PeerUnavailable: it does not report, or has no trainer.
    """

    async def work(tx: Transaction) -> str:
        node = await get_node(tx, name)
        if node is None:
            raise NotFound(name)
        if not answers(node):
            raise PeerUnavailable(name)
        return node.trainer_address

    return await ledger.read(work)


async def trainers(ledger: Ledger) -> tuple[dict[str, str], list[str]]:
    """Return the addresses of the trainers by their nodes' names, and the nodes that have none to ask."""
    nodes = await ledger.read(all_nodes)
    addresses = {node.name: node.trainer_address for node in nodes if answers(node)}
    return addresses, [node.name for node in nodes if node.name not in addresses]


def answers(node: FleetNode) -> bool:
    """Say whether a node's trainer can be asked: a cordoned one can."""
    return node.reachable and not node.lost and bool(node.trainer_address)
