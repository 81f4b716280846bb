"""Releases."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("deployments", sa.Column("release", sa.Text(), server_default="{}", nullable=False))


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_column("deployments", "release")
