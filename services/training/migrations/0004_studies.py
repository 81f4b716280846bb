"""Jobs of a study."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("jobs", sa.Column("study", sa.String(63), nullable=False, server_default=""))
    op.create_index("jobs_by_study", "jobs", ["workspace", "study"])


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_index("jobs_by_study", "jobs")
    op.drop_column("jobs", "study")
