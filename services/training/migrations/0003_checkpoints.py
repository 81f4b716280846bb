"""Checkpoints of jobs."""

import sqlalchemy as sa
from alembic import op

from servicekit.database import BigNumber

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("jobs", sa.Column("checkpoint_object", sa.String(63), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("checkpoint_sha256", sa.String(64), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("checkpoint_bytes", BigNumber, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("checkpoint_time", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Bring the schema back."""
    for name in ("checkpoint_time", "checkpoint_bytes", "checkpoint_sha256", "checkpoint_object"):
        op.drop_column("jobs", name)
