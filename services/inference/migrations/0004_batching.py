"""Whether rows of several requests may be run together."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("deployments", sa.Column("batching", sa.String(16), server_default="auto", nullable=False))


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_column("deployments", "batching")
