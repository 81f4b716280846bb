"""The inference service's schema."""

from sqlalchemy import Column, DateTime, Float, Integer, LargeBinary, MetaData, String, Table, Text

from servicekit.database import BigNumber
from servicekit.state import KitTables

metadata = MetaData()
kit = KitTables(metadata)

deployments = Table(
    "deployments",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", String(128), nullable=False),
    Column("number", BigNumber, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("cores", Float, nullable=False),
    Column("memory_bytes", BigNumber, nullable=False),
    Column("gpus", Float, nullable=False),
    Column("previous_number", BigNumber, nullable=False),
    Column("etag", String(32), nullable=False),
    Column("sequence", BigNumber, nullable=False),
    Column("state", String(16), nullable=False),
    Column("ready_replicas", Integer, nullable=False),
    Column("message", Text, nullable=False),
    # JSON object: execution provider by worker.
    Column("providers", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False),
    # JSON object: what stands beside the version; see services.inference.release_convert.
    Column("release", Text, nullable=False, server_default="{}"),
    Column("response_cache_bytes", BigNumber, nullable=False, server_default="0"),
    Column("batching", String(16), nullable=False, server_default="auto"),
    # JSON object: mode, max_quality_loss_points and dataset, those that were given.
    Column("tuning", Text, nullable=False, server_default="{}"),
    # What was declared of a replica's needs; zeros for what follows measurement.
    Column("declared_cores", Float, nullable=False, server_default="0"),
    Column("declared_memory_bytes", BigNumber, nullable=False, server_default="0"),
    # When it served for the first time.
    Column("serve_time", DateTime(timezone=True)),
    # Why replicas have no worker; empty where they have one.
    Column("waiting_reason", String(32), nullable=False, server_default=""),
)

# What workers chose and measured; nothing is decided by its inside, so it is kept as it was told.
plans = Table(
    "plans",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("hardware", String(255), primary_key=True),
    # A lepton.v1.Plan, serialised.
    Column("content", LargeBinary, nullable=False),
    Column("time", DateTime(timezone=True), nullable=False),
)
