"""Settings of the inference service and of its workers."""

from pydantic import Field

from servicekit.settings import ProcessSettings, StatefulSettings


class InferenceSettings(StatefulSettings):
    """Of the deployments service; read once, in `__main__`."""

    standby_seconds: float = Field(
        600.0,
        ge=0,
        description="How long a former version stays loaded for a rollback, where nobody wants its room, seconds.",
    )
    release_look_seconds: float = Field(2.0, gt=0, description="How often canaries are judged, seconds.")


class WorkerSettings(ProcessSettings):
    """Of a worker; read once, in `__main__`."""

    max_message_bytes: int = Field(64 << 20, ge=1 << 16, description="Largest request or reply, bytes.")
    worker_cores: float = Field(0.0, ge=0, description="Cores that replicas may use; 0 for the machine's.")
    worker_memory_bytes: int = Field(0, ge=0, description="Memory that replicas may use, bytes; 0 for the machine's.")
    worker_gpus: float = Field(0.0, ge=0, description="GPUs that replicas may use.")
    worker_address: str = Field("", description="host:port where other workers reach this one; empty for its own.")
    run_threads: int = Field(1, ge=1, description="Threads that one run of a model uses.")
    parallel_runs: int = Field(4, ge=1, description="Runs that take over a millisecond, at a time.")
    typed_reply: str = Field("mirror", pattern="mirror|raw", description="What a typed request gets: mirror or raw.")
