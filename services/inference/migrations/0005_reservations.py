"""Declared resources in addition to reservations, first service, and why replicas wait."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What a replica reserved where nothing was declared.
_FORMER_CORES = 0.1
_FORMER_MEMORY_BYTES = 64 << 20


def upgrade() -> None:
    """Bring the schema here."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("deployments", sa.Column("declared_cores", sa.Float(), server_default="0", nullable=False))
    op.add_column("deployments", sa.Column("declared_memory_bytes", big, server_default="0", nullable=False))
    op.add_column("deployments", sa.Column("serve_time", sa.DateTime(timezone=True)))
    op.add_column("deployments", sa.Column("waiting_reason", sa.String(32), server_default="", nullable=False))
    table = sa.table(
        "deployments",
        *(sa.column(name) for name in ("cores", "memory_bytes", "declared_cores", "declared_memory_bytes")),
        *(sa.column(name) for name in ("ready_replicas", "serve_time", "update_time")),
    )
    # Records do not say what was declared: what differs from the former defaults is taken to be.
    op.execute(sa.update(table).where(table.c.cores != _FORMER_CORES).values(declared_cores=table.c.cores))
    op.execute(
        sa.update(table)
        .where(table.c.memory_bytes != _FORMER_MEMORY_BYTES)
        .values(declared_memory_bytes=table.c.memory_bytes)
    )
    op.execute(sa.update(table).where(table.c.ready_replicas > 0).values(serve_time=table.c.update_time))


def downgrade() -> None:
    """Bring the schema back."""
    for name in ("waiting_reason", "serve_time", "declared_memory_bytes", "declared_cores"):
        op.drop_column("deployments", name)
