"""Settings that all processes share. Each service's own class adds to them; `__main__` reads them once."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ProcessSettings(BaseSettings):
    """Read from the environment (prefix LEPTON_); immutable afterwards."""

    model_config = SettingsConfigDict(env_prefix="LEPTON_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="gRPC port for clients; 0 takes a free one.")
    private_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="gRPC port for Lepton's own processes, which show certificates; 0 takes a free one.",
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port; 0 serves no metrics.")

    tls_ca: Path = Field(description="PEM file of the platform's certificate authority.")
    tls_certificate: Path = Field(description="PEM file of this process's certificate (role service).")
    tls_key: Path = Field(description="PEM file of this process's private key, mode 0600.")
    token_public_keys: Path = Field(description="JWKS file of the public keys that tokens are verified with.")

    nats_url: str = Field("tls://127.0.0.1:8022", description="NATS servers, comma-separated.")
    nats_user: str = Field("lepton", description="NATS user.")
    nats_password: SecretStr = Field(SecretStr(""), description="NATS password.")
    nats_password_file: Path | None = Field(None, description="File with the NATS password; overrides nats_password.")

    data_address: str = Field("127.0.0.1:8051", description="Private host:port of the data service.")
    training_address: str = Field("127.0.0.1:8052", description="Private host:port of the training service.")
    registry_address: str = Field("127.0.0.1:8053", description="Private host:port of the registry service.")
    scheduler_address: str = Field("127.0.0.1:8054", description="Private host:port of the scheduler service.")
    inference_address: str = Field(
        "127.0.0.1:8055", description="Private host:port of the inference (deployments) service."
    )

    max_message_bytes: int = Field(8 << 20, ge=1 << 16, description="Largest gRPC message taken or sent, bytes.")
    call_timeout_seconds: float = Field(60.0, gt=0, description="Deadline of a unary call that brings none, seconds.")
    drain_seconds: float = Field(10.0, ge=0, description="How long a SIGTERM waits for calls under way, seconds.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")


class StatefulSettings(ProcessSettings):
    """Settings of a service that owns a database or objects."""

    database_url: str = Field(description="SQLAlchemy URL: sqlite+aiosqlite:///PATH or postgresql+psycopg://...")
    objects_url: str = Field(description="Object store URL: file:///PATH, s3://bucket/prefix, gs://..., az://...")
    objects_endpoint: str | None = Field(None, description="Endpoint of an S3-compatible store, http(s)://host:port.")
    objects_region: str = Field("us-east-1", description="S3 region.")
    objects_access_key_id: SecretStr | None = Field(None, description="S3 access key id.")
    objects_secret_access_key: SecretStr | None = Field(None, description="S3 secret access key.")
    key_encryption_key_file: Path = Field(description="File with the key-encryption key (32 bytes, base64), mode 0600.")
