"""The data service's schema."""

from sqlalchemy import Column, DateTime, ForeignKeyConstraint, LargeBinary, MetaData, String, Table

from servicekit.database import BigNumber
from servicekit.state import KitTables

metadata = MetaData()
kit = KitTables(metadata)

datasets = Table(
    "datasets",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("dataset", String(63), primary_key=True),
    Column("number", BigNumber, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("rows", BigNumber, nullable=False),
    Column("size_bytes", BigNumber, nullable=False),
    # A serialised lepton.v1.DatasetVersion: columns, label, recipe, parent and source, which nothing searches.
    Column("description", LargeBinary, nullable=False),
    Column("table_object", String(32), nullable=False),
    Column("profile_object", String(32), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    ForeignKeyConstraint(["workspace", "dataset"], ["datasets.workspace", "datasets.name"]),
)
