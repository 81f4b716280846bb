"""Releases, and response caches."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("deployments", sa.Column("release", sa.Text(), server_default="{}", nullable=False))
    op.add_column(
        "deployments",
        sa.Column(
            "response_cache_bytes",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default="0",
            nullable=False,
        ),
    )


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_column("deployments", "response_cache_bytes")
    op.drop_column("deployments", "release")
