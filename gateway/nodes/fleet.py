"""What nodes and those who look after them do with the fleet."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.dispatch.losing import give_up
from gateway.ledger import attempts, nodes
from gateway.ledger.engine import Ledger, Transaction
from gateway.nodes.node import FleetNode, Report
from gateway.packed import Packed
from gateway.scope import caller_name
from gateway.settings import GatewaySettings
from services.common.auth import current_caller
from services.common.errors import InUse, InvalidRequest, NotFound, PermissionDenied, WrongState
from services.common.names import node_name, parse_node
from services.common.pages import decode_token, encode_token, page_size


@dataclass(frozen=True)
class NodeView:
    """A node with the runs that the ledger places on it."""

    node: FleetNode
    runs: list[str]


@dataclass(frozen=True)
class LiveAttempt:
    """An attempt that may hold memory on a node."""

    run: str
    approval: Packed | None


@dataclass(frozen=True)
class Registration:
    """What a node is told when it registers."""

    live: list[LiveAttempt]
    lease_s: float
    heartbeat_s: float


class Fleet:
    """The nodes."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger

    async def register(self, report: Report) -> Registration:
        """Enter a node.

        Raises:
            InvalidRequest: it does not tell its address.
            WrongState: it would be the second one on a store that only one of them sees.
            PermissionDenied: another identity speaks for this node.
        """
        parse_node(report.name, "node.name")
        if not report.address:
            raise InvalidRequest({"node.address": "the gateway calls its nodes back: tell where"})
        identity = caller_name()

        async def work(tx: Transaction) -> Registration:
            known = await nodes.get_node(tx, report.name)
            # A node's report decides where jobs run: a token of one node must not speak for another.
            _refuse_stranger(known, identity, "RegisterNode")
            others = await nodes.others(tx, report.name)
            self._refuse_private_store(report.name, others)
            lease_s = self._lease_s(others)
            await nodes.register(tx, report, identity, lease_s, _surely_heard(known, lease_s))
            open_here = await attempts.open_attempts_on(tx, report.name)
            live = [LiveAttempt(attempt.run, attempt.approval) for attempt in open_here]
            return Registration(live, lease_s, self._settings.heartbeat_s)

        return await self._ledger.write(work)

    async def heartbeat(self, report: Report) -> float | None:
        """Keep a report. Returns the node's lease in seconds, or None: it is to register again."""

        async def work(tx: Transaction) -> float | None:
            known = await nodes.get_node(tx, report.name)
            _refuse_stranger(known, caller_name(), "HeartbeatNode")
            lease_s = self._lease_s(await nodes.others(tx, report.name))
            # A new lease is granted by a registration alone: the next report then shows that it was heard of.
            if known is None or known.lost or known.granted_lease_s != lease_s:
                return None
            await nodes.heard(tx, report)
            return lease_s

        return await self._ledger.write(work)

    async def page(self, size: int, token: str) -> tuple[list[NodeView], str]:
        """Return a page of nodes by name, and the next page's token."""
        after = decode_token(token, {"name": str}, "nodes")["name"] if token else ""
        limit = page_size(size)

        async def work(tx: Transaction) -> list[NodeView]:
            runs = await attempts.open_runs(tx)
            found = await nodes.all_nodes(tx, after, limit + 1)
            return [NodeView(node, runs.get(node.name, [])) for node in found]

        views = await self._ledger.read(work)
        if len(views) <= limit:
            return views, ""
        return views[:limit], encode_token({"name": views[limit - 1].node.name}, "nodes")

    async def watch(self) -> AsyncIterator[NodeView]:
        """Yield every node, and again each that changed."""
        told: dict[str, tuple[int, list[str]]] = {}
        with self._ledger.signals.listen(nodes.FLEET) as listener:
            while True:
                for view in await self._ledger.read(_views):
                    news = (view.node.version, view.runs)
                    if told.get(view.node.name) != news:
                        told[view.node.name] = news
                        yield view
                await listener.wait(self._settings.tick_s)

    async def mark(self, name: str, **flags: bool) -> NodeView:
        """Set what a person says about a node. Raises NotFound."""

        async def work(tx: Transaction) -> NodeView:
            await _existing(tx, name)
            await nodes.mark(tx, [name], **flags)
            return await _view(tx, name)

        return await self._ledger.write(work)

    async def delete(self, name: str, *, force: bool) -> None:
        """Forget a node; with `force` its attempts move on, although they may still run.

        Raises:
            NotFound: there is no such node.
            InUse: the ledger places a run on it.
        """

        async def work(tx: Transaction) -> None:
            await _existing(tx, name)
            runs = (await attempts.open_runs(tx)).get(name, [])
            if runs and not force:
                raise InUse(name, ", ".join(runs))
            # Without force there is nothing to give up here; with it the attempts go on elsewhere.
            await give_up(tx, name)
            await nodes.delete_node(tx, name)

        await self._ledger.decide(work)

    def _lease_s(self, others: Sequence[str]) -> float:
        return self._settings.node_lease_s if others else 0.0

    def _refuse_private_store(self, name: str, others: Sequence[str]) -> None:
        shared = self._settings.store_shared or urlsplit(self._settings.store_url).scheme not in ("", "file")
        if others and not shared:
            raise WrongState(
                name,
                f"not the only node, and {self._settings.store_url} is a directory of one machine",
                f"a fleet of one (delete {', '.join(others)} if it is gone), or any with a store that every "
                "node sees: s3://…, or WEIGHBRIDGE_STORE_SHARED=true for a network file system",
            )


def _surely_heard(known: FleetNode | None, granted_s: float) -> float:
    """Return the lease after which a node has surely stopped, may it hear of the new one or not. 0: never."""
    if known is None or known.lost or not known.lease_s or not granted_s:
        return 0.0
    return max(known.lease_s, granted_s)


def _refuse_stranger(known: FleetNode | None, identity: str, method: str) -> None:
    if known is not None and known.identity != identity:
        raise PermissionDenied(current_caller().identity, f"{method} for {known.name}")


async def _existing(tx: Transaction, name: str) -> FleetNode:
    node = await nodes.get_node(tx, node_name(parse_node(name)))
    if node is None:
        raise NotFound(name)
    return node


async def _view(tx: Transaction, name: str) -> NodeView:
    return NodeView(await _existing(tx, name), (await attempts.open_runs(tx)).get(name, []))


async def _views(tx: Transaction) -> list[NodeView]:
    runs = await attempts.open_runs(tx)
    return [NodeView(node, runs.get(node.name, [])) for node in await nodes.all_nodes(tx)]
