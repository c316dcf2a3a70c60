"""Data sets and uploads as messages."""

from gateway.datasets.dataset import Dataset, Upload
from services.common.specs import DatasetFormat
from services.common.wire import to_message
from weighbridge.common.v1 import resolved_spec_pb2
from weighbridge.gateway.v1 import resources_pb2

_FORMATS = resolved_spec_pb2.DatasetFormat


def dataset_message(dataset: Dataset) -> resources_pb2.Dataset:
    """Return a data set."""
    message = resources_pb2.Dataset(
        name=dataset.name,
        summary=to_message(dataset.summary, resolved_spec_pb2.DatasetSummary),
        file_name=dataset.file_name,
        caller=dataset.caller,
        warnings=dataset.warnings,
    )
    message.create_time.FromDatetime(dataset.create_time)
    return message


def upload_message(upload: Upload) -> resources_pb2.Upload:
    """Return an upload."""
    message = resources_pb2.Upload(
        name=upload.name,
        dataset=upload.dataset_name,
        size_bytes=upload.size_bytes,
        committed_size=upload.committed_size,
        file_name=upload.file_name,
    )
    if upload.format is not None:
        message.format = _FORMATS.Value(f"DATASET_FORMAT_{upload.format.upper()}")
    message.expire_time.FromDatetime(upload.expire_time)
    return message


def dataset_format(number: "_FORMATS.ValueType") -> DatasetFormat | None:
    """Return a format; None where it is to be recognised."""
    if not number:
        return None
    return DatasetFormat(_FORMATS.Name(number).removeprefix("DATASET_FORMAT_").lower())
