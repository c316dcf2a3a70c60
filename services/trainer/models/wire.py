"""Models of the hub's cache as messages."""

from services.common.wire import to_message
from services.trainer.models.records import CachedModel, PullProgress
from weighbridge.trainer.v1 import resources_pb2, service_pb2


def model_to_message(model: CachedModel) -> resources_pb2.CachedModel:
    """Return a model as a message."""
    return to_message(model, resources_pb2.CachedModel)


def pulled_to_message(told: PullProgress | CachedModel) -> service_pb2.PullModelResponse:
    """Return what a download tells as a message."""
    if isinstance(told, CachedModel):
        return service_pb2.PullModelResponse(model=model_to_message(told))
    return service_pb2.PullModelResponse(progress=to_message(told, resources_pb2.PullProgress))
