"""What the estimator role can fail of beside the spec itself."""

from dataclasses import dataclass

from services.common.errors import Code, ServiceError


@dataclass(eq=False)
class EstimateDied(ServiceError):
    """The process that worked on a spec died or was ended.

    INTERNAL, not UNAVAILABLE: channels repeat the latter by themselves, and a spec that kills its process
    would be fed to five more. Whoever asked counts the deaths and gives up.
    """

    reason = "ESTIMATE_FAILED"
    code = Code.INTERNAL
    tries: int
    detail: str

    def __str__(self) -> str:
        return f"weighing the spec failed: {self.detail}; try again, or simplify the model's configuration"
