"""The registry's schema."""

from sqlalchemy import Column, DateTime, ForeignKeyConstraint, LargeBinary, MetaData, String, Table, Text

from servicekit.database import BigNumber
from servicekit.state import KitTables

metadata = MetaData()
kit = KitTables(metadata)

models = Table(
    "models",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", BigNumber, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("job", String(63), nullable=False, index=True),
    # A serialised lepton.v1.Version as it was declared: signature, lineage, evaluations, parity.
    Column("record", LargeBinary, nullable=False),
    Column("error_reason", String(128), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("end_time", DateTime(timezone=True)),
    # Until then nothing new may use it: it is about to be deleted.
    Column("deleting_until", DateTime(timezone=True)),
    ForeignKeyConstraint(["workspace", "model"], ["models.workspace", "models.name"]),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", BigNumber, primary_key=True, autoincrement=False),
    Column("name", String(128), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigNumber, nullable=False),
    Column("object_name", String(32), nullable=False),
    ForeignKeyConstraint(["workspace", "model", "number"], ["versions.workspace", "versions.model", "versions.number"]),
)

aliases = Table(
    "aliases",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("number", BigNumber, nullable=False),
    Column("etag", String(32), nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False),
)

alias_moves = Table(
    "alias_moves",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("sequence", BigNumber, primary_key=True, autoincrement=False),
    Column("from_number", BigNumber, nullable=False),
    Column("to_number", BigNumber, nullable=False),
    Column("subject", String(255), nullable=False),
    Column("time", DateTime(timezone=True), nullable=False),
)

job_epochs = Table(
    "job_epochs",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("job", String(63), primary_key=True),
    Column("epoch", BigNumber, nullable=False),
)
