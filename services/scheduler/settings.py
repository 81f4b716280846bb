"""Settings of the scheduler."""

from pydantic import Field

from servicekit.settings import ProcessSettings


class SchedulerSettings(ProcessSettings):
    """Read once in `__main__`. The scheduler keeps no objects, so it needs no object store."""

    database_url: str = Field(description="SQLAlchemy URL: sqlite+aiosqlite:///PATH or postgresql+psycopg://...")
    lease_seconds: float = Field(5.0, gt=0, description="How long a worker's lease lasts without a renewal, seconds.")
    grace_seconds: float = Field(
        10.0,
        ge=0,
        description="What a new leader adds to the leases that it finds, so that workers reconnect first, seconds.",
    )
    leadership_seconds: float = Field(
        12.0,
        gt=0,
        description="How long the leader's row may stand still before another scheduler takes over, seconds.",
    )
    resync_seconds: float = Field(10.0, gt=0, description="How often jobs and deployments are listed anew, seconds.")
    debounce_seconds: float = Field(0.02, ge=0, description="How long a plan waits for more news, seconds.")
    cover_workers: bool = Field(
        True,
        description="Whether every inference worker with room serves every deployment, beyond the replicas asked for.",
    )
