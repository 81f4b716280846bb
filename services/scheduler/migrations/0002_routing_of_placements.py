"""Routing of placements."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("placements", sa.Column("routing", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_column("placements", "routing")
