"""Settings of the data service."""

from datetime import timedelta

from pydantic import Field

from servicekit.settings import StatefulSettings


class DataSettings(StatefulSettings):
    """Read once, in `__main__`."""

    max_upload_bytes: int = Field(64 << 30, ge=1, description="Largest file taken, bytes.")
    parallel_imports: int = Field(2, ge=1, description="Imports and transforms at a time; more wait.")
    orphan_minutes: float | None = Field(
        None,
        ge=0,
        description="Age at which an object without a row is deleted at start, minutes. By default 0 on SQLite, whose "
        "file has one process; else a day, for another process may be at it.",
    )

    @property
    def orphan_age(self) -> timedelta:
        """The age at which an object without a row is deleted at start."""
        if self.orphan_minutes is not None:
            return timedelta(minutes=self.orphan_minutes)
        return timedelta(0) if self.database_url.startswith("sqlite") else timedelta(days=1)
