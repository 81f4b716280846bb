"""What the embedded platform runs: one pure function from settings to commands, environments and ports."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lepton.embedded.home import Home

DEFAULT_BASE_PORT = 8000

# Offsets from the base port that clients, scripts and dashboards may rely on.
SERVICE_OFFSETS = {"data": 11, "training": 12, "registry": 13, "scheduler": 14, "inference": 15}
METRICS_OFFSETS = {"data": 31, "training": 32, "registry": 33, "scheduler": 34, "inference": 35}
# Where Lepton's own processes call each other, with certificates.
PRIVATE_OFFSETS = {"data": 51, "training": 52, "registry": 53, "scheduler": 54, "inference": 55}
INFERENCE_REST_OFFSET = 0
INFERENCE_GRPC_OFFSET = 1
INFERENCE_METRICS_OFFSET = 2
NATS_OFFSET = 22
# Ports that nobody outside needs to know: private ports of workers, and metrics of those beyond the first.
_INFERENCE_PRIVATE_OFFSET = 100
_INFERENCE_MORE_METRICS_OFFSET = 150
_TRAINING_WORKER_METRICS_OFFSET = 200
# Large tensors come and go with each request: kept by the allocator, not given back to the kernel each time.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(256 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}


@dataclass(frozen=True)
class Plan:
    """What `lepton up` was asked for.

    Args:
        base_port: the first port; see the offsets above.
        inference_workers, training_workers: how many of each.
        host: the address that services listen on.
    """

    base_port: int = DEFAULT_BASE_PORT
    inference_workers: int = 1
    training_workers: int = 1
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Process:
    """One process of the platform.

    Args:
        name: unique; also names its log file.
        command: what to execute.
        address: host:port where it answers health checks.
        environment: set beside the inherited one.
        is_grpc: whether it speaks gRPC health; nats-server's is a plain port.
        health_address: where it alone answers, if several share the address; empty for the address.
    """

    name: str
    command: tuple[str, ...]
    address: str
    environment: Mapping[str, str] = field(default_factory=dict)
    is_grpc: bool = True
    health_address: str = ""


def platform_processes(home: Home, plan: Plan, nats_server: Path) -> list[Process]:
    """Return every process, nats-server first.

    Args:
        home: the platform's folder.
        plan: what to run.
        nats_server: path of the nats-server binary.
    """
    return [
        Process(
            "nats",
            (str(nats_server), "--config", str(home.nats / "nats.conf")),
            f"{plan.host}:{plan.base_port + NATS_OFFSET}",
            is_grpc=False,
        ),
        *(_service(home, plan, name) for name in SERVICE_OFFSETS),
        *(_inference_worker(home, plan, number) for number in range(1, plan.inference_workers + 1)),
        *(_training_worker(home, plan, number) for number in range(1, plan.training_workers + 1)),
    ]


def nats_configuration(home: Home, plan: Plan) -> str:
    """Return nats-server's configuration: TLS, a password, and JetStream encrypted at rest. It holds secrets."""
    credentials = home.credentials
    return f"""\
listen: "{plan.host}:{plan.base_port + NATS_OFFSET}"
server_name: lepton
tls {{
  cert_file: "{credentials / "nats.pem"}"
  key_file: "{credentials / "nats.key"}"
}}
authorization {{
  user: lepton
  password: "{(credentials / "nats-password").read_text().strip()}"
}}
jetstream {{
  store_dir: "{home.nats}"
  cipher: aes
  key: "{(credentials / "jetstream.key").read_text().strip()}"
  max_memory_store: 64MB
  max_file_store: 4GB
}}
"""


def _service(home: Home, plan: Plan, name: str) -> Process:
    port = plan.base_port + SERVICE_OFFSETS[name]
    environment = {
        **_common(home, plan, name),
        "LEPTON_PORT": str(port),
        "LEPTON_PRIVATE_PORT": str(plan.base_port + PRIVATE_OFFSETS[name]),
        "LEPTON_METRICS_PORT": str(plan.base_port + METRICS_OFFSETS[name]),
        "LEPTON_DATABASE_URL": f"sqlite+aiosqlite:///{home.databases / f'{name}.sqlite3'}",
        "LEPTON_OBJECTS_URL": home.objects.as_uri(),
        "LEPTON_KEY_ENCRYPTION_KEY_FILE": str(home.credentials / "key-encryption.key"),
    }
    return Process(name, _module(name), f"{plan.host}:{port}", environment)


def _inference_worker(home: Home, plan: Plan, number: int) -> Process:
    name = f"inference-worker-{number}"
    private_port = plan.base_port + _INFERENCE_PRIVATE_OFFSET + number
    metrics_offset = INFERENCE_METRICS_OFFSET if number == 1 else _INFERENCE_MORE_METRICS_OFFSET + number
    environment = {
        **_common(home, plan, "inference"),
        "LEPTON_PORT": str(plan.base_port + INFERENCE_GRPC_OFFSET),
        "LEPTON_PRIVATE_PORT": str(private_port),
        "LEPTON_METRICS_PORT": str(plan.base_port + metrics_offset),
        "LEPTON_REST_PORT": str(plan.base_port + INFERENCE_REST_OFFSET),
        "LEPTON_ADMISSION_FILE": str(home.run / "admission"),
        **_share(plan.inference_workers),
        **_MALLOC,
    }
    address = f"{plan.host}:{plan.base_port + INFERENCE_GRPC_OFFSET}"
    command = (*_module("inference"), "worker", "--id", name)
    return Process(name, command, address, environment, health_address=f"{plan.host}:{private_port}")


def _share(workers: int) -> dict[str, str]:
    """Return what one of several workers may use of the machine: each would take all of it."""
    cores = os.cpu_count() or 1
    return {
        "LEPTON_WORKER_CORES": os.environ.get("LEPTON_WORKER_CORES", str(cores / workers)),
        "LEPTON_PARALLEL_RUNS": os.environ.get("LEPTON_PARALLEL_RUNS", str(max(1, cores // workers))),
    }


def _training_worker(home: Home, plan: Plan, number: int) -> Process:
    name = f"training-worker-{number}"
    port = plan.base_port + _TRAINING_WORKER_METRICS_OFFSET + number
    environment = {
        **_common(home, plan, "training"),
        "LEPTON_PORT": str(port),
        "LEPTON_METRICS_PORT": str(port + 50),
    }
    return Process(name, (*_module("training"), "worker", "--id", name), f"{plan.host}:{port}", environment)


def _module(service: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"services.{service}")


def _common(home: Home, plan: Plan, service: str) -> dict[str, str]:
    credentials = home.credentials
    return {
        "LEPTON_HOST": plan.host,
        "LEPTON_TLS_CA": str(home.ca),
        "LEPTON_TLS_CERTIFICATE": str(credentials / f"{service}.pem"),
        "LEPTON_TLS_KEY": str(credentials / f"{service}.key"),
        "LEPTON_TOKEN_PUBLIC_KEYS": str(credentials / "token-keys.json"),
        "LEPTON_NATS_URL": f"tls://{plan.host}:{plan.base_port + NATS_OFFSET}",
        "LEPTON_NATS_PASSWORD_FILE": str(credentials / "nats-password"),
        **{
            f"LEPTON_{name.upper()}_ADDRESS": f"{plan.host}:{plan.base_port + offset}"
            for name, offset in PRIVATE_OFFSETS.items()
        },
    }
