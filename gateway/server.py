"""The gateway: `python -m gateway.server`."""

import asyncio
import shutil

from gateway.chats.server import ChatMethods
from gateway.datasets.server import DatasetMethods
from gateway.dispatch.driving import Driver
from gateway.dispatch.fleet import FleetKeeper
from gateway.dispatch.peers import Nodes, Trainers
from gateway.dispatch.placing import Placer
from gateway.dispatch.reign import Dispatcher
from gateway.dispatch.sweeping import Sweeper
from gateway.dispatch.weigher import Weigher
from gateway.jobs.server import JobMethods
from gateway.ledger.engine import Ledger
from gateway.models.server import ModelMethods
from gateway.nodes.server import NodeMethods
from gateway.peers import Peers
from gateway.settings import GatewaySettings
from gateway.weighing.peers import Estimator
from services.common.server import Registered, run
from services.common.store import BlobStore
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc

_NAMES = service_pb2.DESCRIPTOR.services_by_name


class TrainingServicer(JobMethods, DatasetMethods, ChatMethods):
    """TrainingService."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, peers: Peers, store: BlobStore) -> None:
        JobMethods.__init__(self, settings, ledger, peers, store)
        DatasetMethods.__init__(self, settings, ledger, store)
        ChatMethods.__init__(self, ledger, peers)


class FleetServicer(NodeMethods, ModelMethods):
    """FleetService."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, peers: Peers) -> None:
        NodeMethods.__init__(self, settings, ledger, peers)
        ModelMethods.__init__(self, ledger, peers)


async def serve(settings: GatewaySettings) -> None:
    """Serve until asked to stop.

    Raises:
        RuntimeError: the port is taken.
        ValueError, OSError: a token or the identities file cannot be read.
    """
    store, ledger = BlobStore(settings.store_url), await Ledger.open(settings.ledger_url)
    peers = Peers(settings)

    async def hang_up() -> None:
        await peers.close()
        await ledger.close()

    await run(
        settings,
        [
            Registered(
                service_pb2_grpc.add_TrainingServiceServicer_to_server,
                TrainingServicer(settings, ledger, peers, store),
                _NAMES["TrainingService"].full_name,
            ),
            Registered(
                service_pb2_grpc.add_FleetServiceServicer_to_server,
                FleetServicer(settings, ledger, peers),
                _NAMES["FleetService"].full_name,
            ),
        ],
        background=[_dispatcher(settings, ledger, peers, store).run],
        on_stop=hang_up,
    )


def _dispatcher(settings: GatewaySettings, ledger: Ledger, peers: Peers, store: BlobStore) -> Dispatcher:
    estimator, nodes, trainers = Estimator(peers), Nodes(peers), Trainers(peers)
    duties = (
        Weigher(settings, estimator),
        Placer(settings, estimator, nodes),
        Driver(settings, nodes, trainers, store),
        FleetKeeper(settings, nodes, trainers),
        Sweeper(settings, store),
    )
    return Dispatcher(ledger, settings.dispatcher_ttl_s, duties)


def main() -> None:
    """Read the settings from the environment and serve."""
    settings = GatewaySettings()
    # Files on their way when the last process died.
    shutil.rmtree(settings.state_dir / "spool", ignore_errors=True)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
