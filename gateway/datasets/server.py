"""The methods of TrainingService that are about data sets."""

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from gateway.datasets.datasets import Datasets
from gateway.datasets.finishing import Finisher
from gateway.datasets.importing import Importer
from gateway.datasets.intake import Intake
from gateway.datasets.uploads import Chunk, NewUpload, Uploads
from gateway.datasets.wire import dataset_format, dataset_message, upload_message
from gateway.ledger.engine import Ledger
from gateway.settings import GatewaySettings
from services.common.interception import Context
from services.common.names import parse_project
from services.common.store import BlobStore
from weighbridge.gateway.v1 import resources_pb2, service_pb2, service_pb2_grpc


class DatasetMethods(service_pb2_grpc.TrainingServiceServicer):
    """Data sets, from the first byte."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, store: BlobStore) -> None:
        intake = Intake(settings, ledger, store)
        self._uploads = Uploads(settings, ledger, store)
        self._finisher = Finisher(ledger, store, intake)
        self._importer = Importer(settings, ledger, intake)
        self._datasets = Datasets(ledger, settings.sweep_delay_s)

    async def CreateUpload(
        self, request: service_pb2.CreateUploadRequest, context: Context
    ) -> resources_pb2.Upload:
        """Begin an upload."""
        new = NewUpload(
            project=parse_project(request.parent),
            dataset=request.dataset_id,
            size_bytes=request.size_bytes,
            format=dataset_format(request.format),
            file_name=request.file_name,
        )
        return upload_message(await self._uploads.create(new))

    async def WriteUpload(
        self, request_iterator: AsyncIterator[service_pb2.WriteUploadRequest], context: Context
    ) -> resources_pb2.Upload:
        """Append chunks."""
        chunks = (Chunk(each.name, each.offset, each.data) async for each in request_iterator)
        return upload_message(await self._uploads.write(chunks))

    async def GetUpload(
        self, request: service_pb2.GetUploadRequest, context: Context
    ) -> resources_pb2.Upload:
        """Say how much is safe."""
        return upload_message(await self._uploads.get(request.name))

    async def FinishUpload(
        self, request: service_pb2.FinishUploadRequest, context: Context
    ) -> resources_pb2.Dataset:
        """Make an upload a data set."""
        return dataset_message(await self._finisher.finish(request.name, request.sha256))

    async def AbortUpload(self, request: service_pb2.AbortUploadRequest, context: Context) -> Empty:
        """Throw an upload away."""
        await self._uploads.abort(request.name)
        return Empty()

    async def ImportDataset(
        self, request: service_pb2.ImportDatasetRequest, context: Context
    ) -> resources_pb2.Dataset:
        """Fetch a data set."""
        fetched = await self._importer.fetch(
            parse_project(request.parent), request.dataset_id, request.uri, dataset_format(request.format)
        )
        return dataset_message(fetched)

    async def GetDataset(
        self, request: service_pb2.GetDatasetRequest, context: Context
    ) -> resources_pb2.Dataset:
        """Read a data set."""
        return dataset_message(await self._datasets.get(request.name))

    async def ListDatasets(
        self, request: service_pb2.ListDatasetsRequest, context: Context
    ) -> service_pb2.ListDatasetsResponse:
        """List data sets."""
        found, token = await self._datasets.page(
            parse_project(request.parent), request.page_size, request.page_token
        )
        listed = [dataset_message(dataset) for dataset in found]
        return service_pb2.ListDatasetsResponse(datasets=listed, next_page_token=token)

    async def DeleteDataset(self, request: service_pb2.DeleteDatasetRequest, context: Context) -> Empty:
        """Remove a data set."""
        await self._datasets.delete(request.name)
        return Empty()
