"""Settings of the training service and of its workers."""

from typing import Literal

from pydantic import Field

from servicekit.settings import ProcessSettings, StatefulSettings


class TrainingSettings(StatefulSettings):
    """Of the service; read once, in `__main__`."""

    orphan_minutes: float = Field(60.0, ge=0, description="Age at which an object without a row is deleted, minutes.")


class WorkerSettings(ProcessSettings):
    """Of a worker; read once, in `__main__`."""

    worker_cores: float = Field(0.0, ge=0, description="Cores that jobs may use; 0 for the machine's.")
    worker_memory_bytes: int = Field(0, ge=0, description="Memory that jobs may use, bytes; 0 for the machine's.")
    worker_gpus: float = Field(0.0, ge=0, description="GPUs that jobs may use.")
    library_memory_bytes: int = Field(
        512 << 20, ge=0, description="What a job's libraries may keep, beside the memory that the job declares; bytes."
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="How far apart a job's checkpoints are, seconds; it may lose as much work and no more."
    )
    engine: Literal["embedded", "ray"] = Field(
        "embedded", description="Where networks are trained: in the job's own process, or on a Ray cluster."
    )
    ray_address: str = Field(
        "auto", description="The Ray cluster's head, host:port; auto for the one that this machine is a node of."
    )
    stop_seconds: float = Field(
        5.0, ge=0, description="How long a child may take to stop before it is killed, seconds."
    )
