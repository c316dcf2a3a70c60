"""What recipes do not do with several devices."""

from services.common.errors import NotAvailable
from services.common.specs import PlacementOptions, ShardingStrategy


def refuse_sharding(placement: PlacementOptions) -> None:
    """Refuse to divide a model's weights over devices, which this version does not do.

    Raises:
        NotAvailable: with what works instead.
    """
    if placement.sharding is ShardingStrategy.FSDP:
        raise NotAvailable(
            "this version divides batches over devices, not weights: set placement.sharding to ddp, where "
            "each device holds the whole model; lora and quantization make that smaller"
        )
