"""What is seen of jobs: reports, warnings, what they take of the machine."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    op.add_column("jobs", sa.Column("usage", sa.LargeBinary, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("warnings", sa.Text, nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("report_object", sa.String(63), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("report_sha256", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    """Bring the schema back."""
    for name in ("report_sha256", "report_object", "warnings", "usage"):
        op.drop_column("jobs", name)
