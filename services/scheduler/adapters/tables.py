"""The scheduler's tables."""

from sqlalchemy import JSON, Column, Float, Integer, MetaData, String, Table

from servicekit.database import BigNumber
from servicekit.state import KitTables

metadata = MetaData()
kit = KitTables(metadata)

workers = Table(
    "workers",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("cores", Float, nullable=False),
    Column("memory_bytes", BigNumber, nullable=False),
    Column("gpus", Float, nullable=False),
    Column("epoch", BigNumber, nullable=False),
    Column("address", String(256), nullable=False),
    Column("joined_at", Float, nullable=False),
    Column("drained_at", Float, nullable=True),
)

# Replicas and jobs in one table, for they are listed as one: a job has an empty model and the number 0.
placements = Table(
    "placements",
    metadata,
    Column("worker", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("workspace", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", BigNumber, primary_key=True, autoincrement=False),
    Column("digest", String(128), nullable=False),
    Column("aliases", JSON, nullable=False),
    Column("cores", Float, nullable=False),
    Column("memory_bytes", BigNumber, nullable=False),
    Column("gpus", Float, nullable=False),
    Column("epoch", BigNumber, nullable=False, unique=True),
    Column("placed_at", Float, nullable=False),
    # JSON object: which requests a replica takes; empty for a job, and for a replica that takes all.
    Column("routing", JSON, nullable=False, server_default="{}"),
)

# One row: who leads.
leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(128), nullable=False),
    Column("epoch", BigNumber, nullable=False),
    Column("beat", BigNumber, nullable=False),
)
