"""The ledger's tables. `migrations` makes them; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from gateway.ledger.types import Blob, Json, Moment, RowNumber

metadata = MetaData()


def _of_job() -> Column[str]:
    return Column("job", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("caller", Text, nullable=False),
    # Null where the caller gave none: nulls are never equal, so such a request is never a repeat.
    Column("request_id", Text),
    Column("request_sha256", Text, nullable=False),
    Column("spec", Blob, nullable=False),
    Column("task", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("base_job", Text),
    Column("priority", Integer, nullable=False),
    Column("retry_limit", Integer, nullable=False),
    Column("save_total_limit", Integer, nullable=False),
    Column("artifact_ttl_s", Float),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    # The attempt that the job had when it was resumed: losses before it do not count.
    Column("retries_from", Integer, nullable=False),
    Column("estimate_tries", Integer, nullable=False),
    # Not to be placed before, after attempts that ended before they trained.
    Column("not_before", Moment),
    Column("resolved", Blob),
    Column("spec_sha256", Text, nullable=False),
    Column("model_type", Text, nullable=False),
    Column("base_artifact", Text, nullable=False),
    Column("estimate", Blob),
    Column("verdict", Blob),
    Column("progress", Blob),
    Column("metrics", Json, nullable=False),
    Column("artifact", Blob),
    Column("artifact_digest", Text, nullable=False),
    Column("failure", Json),
    Column("warnings", Json, nullable=False),
    Column("conditions", Json, nullable=False),
    # Number of the newest event: counted on the job's row, so that events come in the order of their commits.
    Column("event_seq", Integer, nullable=False),
    # Grows with every change that a watcher wants to see.
    Column("version", Integer, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("start_time", Moment),
    Column("end_time", Moment),
    Column("expire_time", Moment),
    UniqueConstraint("caller", "request_id", name="jobs_by_request"),
    Index("jobs_by_state", "state", "priority", "create_time"),
    Index("jobs_by_age", "project", "create_time", "id"),
    Index("jobs_by_base", "base_job"),
    Index("jobs_by_dataset", "dataset"),
)

job_labels = Table(
    "job_labels",
    metadata,
    _of_job(),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index("jobs_by_label", "key", "value"),
)

attempts = Table(
    "attempts",
    metadata,
    _of_job(),
    Column("attempt", Integer, primary_key=True),
    Column("node", Text, nullable=False),
    Column("state", Text),
    Column("approval", Blob),
    Column("device", Text),
    Column("predicted_bytes", BigInteger, nullable=False),
    Column("method", Text),
    # How far the run's events were read; moved in the transaction that keeps an event.
    Column("cursor", Text, nullable=False),
    # Asked to leave its node, which is drained.
    Column("moving", Boolean, nullable=False),
    Column("failure", Json),
    Column("peaks", Json, nullable=False),
    Column("create_time", Moment, nullable=False),
    Column("start_time", Moment),
    Column("end_time", Moment),
    Index("attempts_by_node", "node", "end_time"),
)

events = Table(
    "events",
    metadata,
    _of_job(),
    Column("seq", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("time", Moment, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Blob, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _of_job(),
    Column("attempt", Integer, primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("epoch", Float, nullable=False),
    Column("metrics", Json, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    # Whose token registered it: nobody else may speak for it.
    Column("identity", Text, nullable=False),
    Column("snapshot", Blob, nullable=False),
    Column("address", Text, nullable=False),
    Column("trainer_address", Text, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("ready_reason", Text, nullable=False),
    # Runs that have memory of the node, by its own word.
    Column("holding", Json, nullable=False),
    Column("observe_time", Moment),
    Column("heartbeat_time", Moment, nullable=False),
    # Counted, so that a dispatcher sees on its own clock when the last one came.
    Column("heartbeats", BigInteger, nullable=False),
    Column("reachable", Boolean, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("cordoned", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("granted_lease_s", Float, nullable=False),
    # The lease that the node is known to have heard of: only that one ends its runs.
    Column("lease_s", Float, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("create_time", Moment, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("project", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("summary", Json, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("warnings", Json, nullable=False),
    Column("caller", Text, nullable=False),
    # The upload it was made from, so that a repeated finish finds what the first one made.
    Column("upload", Text, nullable=False),
    Column("create_time", Moment, nullable=False),
    Index("datasets_by_age", "project", "create_time", "id"),
    Index("datasets_by_upload", "upload"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("committed_size", BigInteger, nullable=False),
    Column("format", Text),
    Column("file_name", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("expire_time", Moment, nullable=False),
    Index("uploads_by_caller", "caller"),
    Index("uploads_by_expiry", "expire_time"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload", Text, ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("digest", Text, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", Text, primary_key=True),
    # Who needs it, such as a checkpoint, and what that belongs to, such as a job.
    Column("owner", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Index("blobs_by_owner", "owner"),
    Index("blobs_by_scope", "scope"),
)

# Blobs that lost an owner. They are looked at again when they are due, and marked before they are deleted.
unreferenced = Table(
    "unreferenced",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("due", Moment, nullable=False),
    Column("deleting", Boolean, nullable=False),
)

admissions = Table(
    "admissions",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("time", Moment, nullable=False),
    Column("project", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("caller", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("spec_sha256", Text, nullable=False),
    Column("amounts", Json, nullable=False),
    Column("duration_s", Float, nullable=False),
    Index("admissions_by_project", "project", "id"),
    Index("admissions_by_job", "job"),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("project", Text, nullable=False),
    Column("run", Text, nullable=False, unique=True),
    Column("node", Text, nullable=False),
    Column("model_type", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("device", Text),
    Column("method", Text),
    Column("predicted_bytes", BigInteger, nullable=False),
    Column("measured_bytes", BigInteger, nullable=False),
    Column("product", Text, nullable=False),
    Column("end_time", Moment, nullable=False),
)

# One row. Who holds it dispatches; each change of holder raises the epoch, which every write of it checks.
dispatcher = Table(
    "dispatcher",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
)
