"""Settings of the inference service and of its workers."""

from pathlib import Path

from pydantic import Field

from servicekit.settings import ProcessSettings, StatefulSettings


class InferenceSettings(StatefulSettings):
    """Of the deployments service; read once, in `__main__`."""

    standby_seconds: float = Field(
        600.0,
        ge=0,
        description="How long a former version stays loaded for a rollback, where nobody wants its room, seconds.",
    )
    reservation_look_seconds: float = Field(
        10.0, gt=0, description="How often undeclared reservations are compared with what is measured, seconds."
    )
    release_look_seconds: float = Field(2.0, gt=0, description="How often canaries are judged, seconds.")


class WorkerSettings(ProcessSettings):
    """Of a worker; read once, in `__main__`."""

    max_message_bytes: int = Field(64 << 20, ge=1 << 16, description="Largest request or reply, bytes.")
    worker_cores: float = Field(0.0, ge=0, description="Cores that replicas may use; 0 for the machine's.")
    worker_memory_bytes: int = Field(0, ge=0, description="Memory that replicas may use, bytes; 0 for the machine's.")
    worker_gpus: float = Field(0.0, ge=0, description="GPUs that replicas may use; 0 for the machine's.")
    worker_address: str = Field("", description="host:port where other workers reach this one; empty for its own.")
    fast_lane: bool = Field(True, description="Serve on gRPC's completion queue; false serves on grpc.aio.")
    rest_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the protocol over REST (TLS); 0 takes a free one, empty serves none."
    )
    plaintext_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="gRPC port without TLS, tokens as ever, for benchmarks beside servers that have none; on a "
        "loopback host alone; 0 for none.",
    )
    run_threads: int = Field(1, ge=1, description="Threads that one run of a model uses.")
    parallel_runs: int = Field(
        0, ge=0, description="Runs over a millisecond at a time; 0 for as many as the process's cores have room for."
    )
    max_in_flight: int = Field(4096, ge=1, description="Requests under way at once, over all that share the port.")
    admission_file: Path | None = Field(
        None, description="File by which the processes of one port share max_in_flight; empty counts each by itself."
    )
    max_batch_rows: int = Field(1_048_576, ge=1, description="Most rows of one request.")
    max_queue_requests: int = Field(1024, ge=1, description="Requests of one model that may wait for their run.")
    max_queue_bytes: int = Field(512 << 20, ge=1 << 20, description="Bytes of requests that may wait, of all models.")
    max_unread_bytes: int = Field(
        256 << 20, ge=1 << 20, description="Replies that one client may leave unread before it is refused, bytes."
    )
    tuning: str = Field(
        "within_loss",
        pattern="off|lossless|within_loss",
        description="How far to go for a faster execution plan, where a deployment does not say.",
    )
    tuning_max_loss_points: float = Field(
        0.5, ge=0, le=100, description="Quality that a plan may lose where a deployment does not say, points."
    )
    tuning_seconds: float = Field(60.0, gt=0, description="How long measuring one version's plans may take, seconds.")
    tuning_memory_bytes: int = Field(
        2 << 30, ge=1 << 28, description="Memory that measuring may take beside twelve times the model's size, bytes."
    )
    typed_reply: str = Field("mirror", pattern="mirror|raw", description="What a typed request gets: mirror or raw.")
    parallel_scorings: int = Field(2, ge=1, description="Datasets scored at a time; more are told to come back.")
