"""Settings of the registry."""

from pydantic import Field

from servicekit.settings import StatefulSettings


class RegistrySettings(StatefulSettings):
    """Read once, in `__main__`."""

    max_artifact_bytes: int = Field(8 << 30, ge=1, description="Largest artifact taken, bytes.")
    parity_tolerance: float = Field(
        1e-3, gt=0, description="Largest difference between a model and its export that a worker may declare."
    )
    verify_seconds: float = Field(
        45.0, gt=0, description="Longest that trying a model may take, seconds; less than a call's usual deadline."
    )
    verify_memory_bytes: int = Field(
        2 << 30, ge=256 << 20, description="Address space for trying a model, beside six times its size, bytes."
    )
    parallel_verifications: int = Field(2, ge=1, description="Models tried at a time; more wait.")
    pending_hours: float = Field(24.0, gt=0, description="Age at which an unfinished version is given up, hours.")
    orphan_minutes: float = Field(60.0, ge=0, description="Age at which an object without a row is deleted, minutes.")
