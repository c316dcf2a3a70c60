"""Data sets: uploaded once, validated, never changed."""

from collections.abc import Iterator
from pathlib import Path

from weighbridge import _upload
from weighbridge._link import Link
from weighbridge._pages import PAGE_SIZE, listed
from weighbridge._upload import Progress
from weighbridge.common.v1.resolved_spec_pb2 import DatasetFormat
from weighbridge.gateway.v1.resources_pb2 import Dataset
from weighbridge.gateway.v1.service_pb2 import (
    DeleteDatasetRequest,
    GetDatasetRequest,
    ImportDatasetRequest,
    ListDatasetsRequest,
)
from weighbridge.names import dataset_name, project_name

RECOGNISED = DatasetFormat.DATASET_FORMAT_UNSPECIFIED
# The platform fetches the data before it answers.
IMPORT_TIMEOUT_S = 3600.0


class Datasets:
    """The data sets of a project; names may be short."""

    def __init__(self, link: Link, project: str) -> None:
        self._link = link
        self._project = project

    def upload(
        self,
        path: str | Path,
        name: str,
        *,
        format: DatasetFormat.ValueType = RECOGNISED,
        progress: Progress | None = None,
    ) -> Dataset:
        """Upload a file and return the data set it became.

        A broken connection is taken up where it broke off, also by a second call from another process. A data
        set of that name with the same bytes is returned as it is. `progress` is told bytes done and in all.

        Raises:
            InvalidDataset: the data breaks a rule; the error names the item and the limit.
            AlreadyExists: there is a data set of that name with other bytes.
            OSError: the file cannot be read.
        """
        source = _upload.read_source(Path(path), project_name(self._project), name, format)
        return _upload.upload(self._link, source, progress or _ignore)

    def import_uri(self, uri: str, name: str, *, format: DatasetFormat.ValueType = RECOGNISED) -> Dataset:
        """Let the platform fetch a data set from a URI that its settings allow, and return it."""
        request = ImportDatasetRequest(
            parent=project_name(self._project), dataset_id=name, uri=uri, format=format
        )
        return self._link.call(self._link.training.ImportDataset, request, IMPORT_TIMEOUT_S)

    def get(self, name: str) -> Dataset:
        """Return a data set. Raises NotFound."""
        request = GetDatasetRequest(name=dataset_name(self._project, name))
        return self._link.call(self._link.training.GetDataset, request)

    def list(self, limit: int | None = None) -> Iterator[Dataset]:
        """Yield the project's data sets, newest first."""
        parent = project_name(self._project)
        return listed(
            lambda token: self._link.call(
                self._link.training.ListDatasets,
                ListDatasetsRequest(parent=parent, page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.datasets,
            limit,
        )

    def delete(self, name: str) -> None:
        """Remove a data set. Raises InUse while a job that is not final names it."""
        request = DeleteDatasetRequest(name=dataset_name(self._project, name))
        self._link.call(self._link.training.DeleteDataset, request)


def _ignore(done: int, total: int) -> None:
    pass
