"""Makes and checks migrations: `python -m servicekit.migrations services.data "add profiles"` writes the next one."""

import importlib
import re
import sys
from pathlib import Path

from alembic.autogenerate import api, compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine
from sqlalchemy.engine import make_url

from servicekit.database import migrate

_TEMPLATE = '''"""{message}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down_revision}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema here."""
    {upgrade}


def downgrade() -> None:
    """Bring the schema back."""
    {downgrade}
'''


def drift(url: str, migrations: str, metadata: MetaData) -> list[object]:
    """Return the differences between a freshly migrated database and the code's tables; none is right."""
    migrate(make_url(url), migrations)
    engine = create_engine(make_url(url).set(drivername=make_url(url).drivername.replace("+aiosqlite", "")))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = list(compare_metadata(context, metadata))
    engine.dispose()
    return found


def write(service: str, message: str) -> Path:
    """Write the next migration of a service from what its tables lack; return its path."""
    package = importlib.import_module(f"{service}.migrations")
    metadata: MetaData = importlib.import_module(f"{service}.adapters.tables").metadata
    folder = Path(str(package.__file__)).parent
    versions = sorted(path for path in folder.glob("*.py") if re.match(r"\d{4}_", path.name))
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        if versions:
            from servicekit.database import _upgrade

            _upgrade(connection, folder)
        context = MigrationContext.configure(connection, opts={"render_as_batch": False})
        script = api.produce_migrations(context, metadata)
        if script.upgrade_ops is None or script.upgrade_ops.is_empty():
            raise SystemExit("nothing to do: the migrations make the tables as they are")
        upgrade = api.render_python_code(script.upgrade_ops)
        downgrade = api.render_python_code(script.downgrade_ops) if script.downgrade_ops else "pass"
    revision = f"{len(versions) + 1:04d}"
    down_revision = f'"{len(versions):04d}"' if versions else "None"
    path = folder / f"{revision}_{re.sub(r'[^a-z0-9]+', '_', message.lower()).strip('_')}.py"
    path.write_text(
        _TEMPLATE.format(
            message=message[0].upper() + message[1:] + ".",
            revision=revision,
            down_revision=down_revision,
            upgrade=upgrade,
            downgrade=downgrade,
        )
    )
    return path


if __name__ == "__main__":
    print(write(sys.argv[1], sys.argv[2]))
