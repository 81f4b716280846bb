"""The example service's tables."""

from sqlalchemy import Column, MetaData, String, Table

from servicekit.database import BigNumber, counters_table
from servicekit.idempotency import requests_table
from servicekit.outbox import inbox_table, outbox_table

metadata = MetaData()
counters = counters_table(metadata)
outbox = outbox_table(metadata)
inbox = inbox_table(metadata)
requests = requests_table(metadata)
things = Table(
    "things",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("number", BigNumber, nullable=False),
)
