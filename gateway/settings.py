"""What the gateway can be told, beside what every service can."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.common.settings import PREFIX, CommonSettings

MIB = 1 << 20
GIB = 1 << 30


def _default_ledger() -> str:
    return f"sqlite+aiosqlite:///{Path('.weighbridge/state/ledger.db').absolute()}"


class GatewaySettings(CommonSettings):
    """Settings of the gateway."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, populate_by_name=True)

    ledger_url: str = Field(default_factory=_default_ledger)
    """SQLAlchemy's URL of the ledger: `sqlite+aiosqlite:///…`, or `postgresql+asyncpg://…` for replicas."""
    estimator_target: str = "127.0.0.1:7102"
    """Where the estimator answers."""
    store_shared: bool = False
    """Whether every node sees a store at a `file://` URL, as one on a network file system."""

    heartbeat_s: PositiveFloat = Field(default=5.0, validation_alias=f"{PREFIX}HEARTBEAT")
    """How often nodes report. A node that missed three reports is unreachable."""
    node_lease_s: PositiveFloat = Field(default=900.0, validation_alias=f"{PREFIX}NODE_LEASE")
    """How long a node keeps its runs without hearing from the gateway, where there is more than one node."""
    lost_after_s: PositiveFloat = Field(default=60.0, validation_alias=f"{PREFIX}LOST_AFTER")
    """How long after the end of a node's lease the gateway gives it up."""

    dispatcher_ttl_s: PositiveFloat = Field(default=5.0, validation_alias=f"{PREFIX}DISPATCHER_TTL")
    """How long a dispatcher that vanished keeps the others from taking over."""
    tick_s: PositiveFloat = Field(default=2.0, validation_alias=f"{PREFIX}TICK")
    """How often the ledger is read for what another replica wrote into it."""
    backoff_s: PositiveFloat = Field(default=1.0, validation_alias=f"{PREFIX}BACKOFF")
    """First pause before something that failed is tried again; it doubles up to a minute."""
    cancel_grace_s: PositiveFloat = Field(default=30.0, validation_alias=f"{PREFIX}CANCEL_GRACE")
    """Time that a run gets to write a checkpoint before it is killed."""
    sweep_delay_s: NonNegativeFloat = Field(default=3600.0, validation_alias=f"{PREFIX}SWEEP_DELAY")
    """How long a blob lies unreferenced before it is deleted."""
    peer_timeout_s: PositiveFloat = Field(default=20.0, validation_alias=f"{PREFIX}PEER_TIMEOUT")
    """Deadline of a call to a node or trainer."""
    estimate_timeout_s: PositiveFloat = Field(default=300.0, validation_alias=f"{PREFIX}ESTIMATE_TIMEOUT")
    """Deadline of a call that resolves or estimates one spec."""

    max_upload_bytes: PositiveInt = 64 * GIB
    """Largest data set that is taken."""
    max_open_uploads: PositiveInt = 16
    """Uploads that one caller may have open."""
    upload_part_bytes: PositiveInt = 4 * MIB
    """So many bytes are made safe at once."""
    upload_ttl_s: PositiveFloat = Field(default=86400.0, validation_alias=f"{PREFIX}UPLOAD_TTL")
    """How long an upload that nothing arrives for is kept."""
    import_prefixes: Annotated[tuple[str, ...], NoDecode] = ()
    """Where data sets may be imported from, separated by commas: `s3://bucket/data/,https://data.example.org/`."""

    max_dataset_items: PositiveInt = 1_000_000
    """Most entries of a data set's archive."""
    max_dataset_rows: PositiveInt = 10_000_000
    """Most rows of a data set of text; its check takes about 100 bytes of memory for each."""
    max_unpacked_bytes: PositiveInt = 256 * GIB
    """Most bytes that a data set's archive may unpack to, or that the rows of a data set of text may hold."""
    max_item_bytes: PositiveInt = 128 * MIB
    """Most bytes that one item of an archive may unpack to, or that one row of text may have."""
    max_compression_ratio: PositiveInt = 200
    """Most bytes that one byte of an archive may unpack to."""
    max_pixels: PositiveInt = 64_000_000
    """Most pixels that an image may have."""
    check_timeout_s: PositiveFloat = Field(default=1800.0, validation_alias=f"{PREFIX}CHECK_TIMEOUT")
    """Time that the check of one data set may take."""
    check_memory_bytes: PositiveInt = 2 * GIB
    """Memory that the process which checks a data set may have."""

    @field_validator("import_prefixes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value
