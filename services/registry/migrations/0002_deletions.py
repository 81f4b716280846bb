"""Versions that are about to be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("versions", sa.Column("deleting_until", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_column("versions", "deleting_until")
