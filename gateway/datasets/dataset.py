"""Data sets and the uploads that they come from."""

from dataclasses import dataclass
from datetime import datetime

from services.common.names import dataset_name, upload_name
from services.common.specs import DatasetFormat, DatasetSummary


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Validated data that jobs train on."""

    project: str
    id: str
    summary: DatasetSummary
    file_name: str
    warnings: tuple[str, ...]
    caller: str
    upload: str
    create_time: datetime

    @property
    def name(self) -> str:
        """`projects/{project}/datasets/{dataset}`."""
        return dataset_name(self.project, self.id)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A resumable upload of one data set."""

    id: str
    project: str
    dataset: str
    size_bytes: int
    committed_size: int
    format: DatasetFormat | None
    file_name: str
    caller: str
    expire_time: datetime

    @property
    def name(self) -> str:
        """`projects/{project}/uploads/{upload}`."""
        return upload_name(self.project, self.id)

    @property
    def dataset_name(self) -> str:
        """The data set that it will become."""
        return dataset_name(self.project, self.dataset)
