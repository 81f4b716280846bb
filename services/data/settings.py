"""Settings of the data service."""

from pydantic import Field

from servicekit.settings import StatefulSettings


class DataSettings(StatefulSettings):
    """Read once, in `__main__`."""

    max_upload_bytes: int = Field(64 << 30, ge=1, description="Largest file taken, bytes.")
    parallel_imports: int = Field(2, ge=1, description="Imports and transforms at a time; more wait.")
    transform_memory: str = Field("1GB", description="Memory of one transform; what is larger spills, encrypted.")
    orphan_minutes: float = Field(60.0, ge=0, description="Age at which an object without a row is deleted, minutes.")
