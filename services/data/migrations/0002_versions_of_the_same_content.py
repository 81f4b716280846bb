"""Several versions of a dataset may have the same content: with another label, or imported again after another one."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CONVENTION = {"uq": "uq_%(table_name)s_%(column_0_name)s"}


def upgrade() -> None:
    """Bring the schema here."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("versions_workspace_dataset_digest_key", "versions", type_="unique")
        return
    # SQLite has no names for such constraints: the table is copied without it.
    with op.batch_alter_table("versions", naming_convention=_CONVENTION) as batch:
        batch.drop_constraint("uq_versions_workspace", type_="unique")


def downgrade() -> None:
    """Bring the schema back; fails where two versions of a dataset have the same content."""
    if op.get_bind().dialect.name == "postgresql":
        op.create_unique_constraint(
            "versions_workspace_dataset_digest_key", "versions", ["workspace", "dataset", "digest"]
        )
        return
    with op.batch_alter_table("versions") as batch:
        batch.create_unique_constraint("uq_versions_workspace", ["workspace", "dataset", "digest"])
