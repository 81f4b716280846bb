"""The training service's schema."""

from sqlalchemy import Boolean, Column, DateTime, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

from servicekit.database import BigNumber
from servicekit.state import KitTables

metadata = MetaData()
kit = KitTables(metadata)

jobs = Table(
    "jobs",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("progress", Float, nullable=False),
    Column("message", Text, nullable=False),
    # JSON object of the latest value by name.
    Column("metrics", Text, nullable=False),
    Column("version", String(128), nullable=False),
    Column("evaluation", LargeBinary, nullable=False),
    Column("error_reason", String(128), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("worker", String(63), nullable=False),
    Column("epoch", BigNumber, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("sequence", BigNumber, nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("start_time", DateTime(timezone=True)),
    Column("end_time", DateTime(timezone=True)),
    # When a fact told its progress last.
    Column("progress_time", DateTime(timezone=True)),
    # The job of the study that it is a trial of, or registers the best of.
    Column("study", String(63), nullable=False, server_default=""),
    # Its latest checkpoint: the object that holds it, empty without one, and what is known of that.
    Column("checkpoint_object", String(63), nullable=False, server_default=""),
    Column("checkpoint_sha256", String(64), nullable=False, server_default=""),
    Column("checkpoint_bytes", BigNumber, nullable=False, server_default="0"),
    Column("checkpoint_time", DateTime(timezone=True)),
    # A serialised lepton.v1.Usage.
    Column("usage", LargeBinary, nullable=False, server_default=""),
    # JSON list of texts.
    Column("warnings", Text, nullable=False, server_default="[]"),
    # Its report: the object that holds it, empty without one, and its digest.
    Column("report_object", String(63), nullable=False, server_default=""),
    Column("report_sha256", String(64), nullable=False, server_default=""),
    Index("jobs_by_state", "state", "create_time"),
    Index("jobs_by_study", "workspace", "study"),
)

updates = Table(
    "updates",
    metadata,
    Column("workspace", String(63), primary_key=True),
    Column("job", String(63), primary_key=True),
    Column("sequence", BigNumber, primary_key=True, autoincrement=False),
    # A serialised lepton.v1.WatchJobResponse.
    Column("content", LargeBinary, nullable=False),
)
