"""The compose file is valid, and every command, port, variable and health check in it matches the code."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml
from pydantic_settings import BaseSettings

from lepton.embedded.processes import (
    DEFAULT_BASE_PORT,
    INFERENCE_GRPC_OFFSET,
    INFERENCE_METRICS_OFFSET,
    METRICS_OFFSETS,
    PRIVATE_OFFSETS,
    SERVICE_OFFSETS,
)
from services.data.settings import DataSettings
from services.inference.settings import InferenceSettings
from services.inference.settings import WorkerSettings as InferenceWorkerSettings
from services.registry.settings import RegistrySettings
from services.scheduler.settings import SchedulerSettings
from services.training.settings import TrainingSettings
from services.training.settings import WorkerSettings as TrainingWorkerSettings

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, type[BaseSettings]] = {
    "data": DataSettings,
    "training": TrainingSettings,
    "registry": RegistrySettings,
    "scheduler": SchedulerSettings,
    "inference": InferenceSettings,
    "inference-worker": InferenceWorkerSettings,
    "training-worker": TrainingWorkerSettings,
}
SECRETS = {
    "LEPTON_POSTGRES_PASSWORD": "p",
    "LEPTON_S3_ACCESS_KEY_ID": "k",
    "LEPTON_S3_SECRET_ACCESS_KEY": "s",
    "LEPTON_GRAFANA_PASSWORD": "g",
}


def _compose(*arguments: str, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # The package's console script hides errors; the binary in it does not.
    binary = Path(compose.__file__).parent / "docker-compose"
    command = [str(binary), "-f", str(ROOT / "docker-compose.yml"), "--profile", "*", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(ROOT), **secrets}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found = _compose("config", "--format", "json", secrets=SECRETS)
    assert found.returncode == 0, found.stderr
    services: dict[str, Any] = json.loads(found.stdout)["services"]
    return services


def test_secrets_have_no_default() -> None:
    for name in ("LEPTON_POSTGRES_PASSWORD", "LEPTON_S3_ACCESS_KEY_ID", "LEPTON_S3_SECRET_ACCESS_KEY"):
        left = {key: value for key, value in SECRETS.items() if key != name}
        assert _compose("config", "-q", secrets=left).returncode != 0


def test_every_variable_of_the_example_is_used() -> None:
    example = {line.split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line}
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert example == used


@pytest.mark.parametrize("name", SETTINGS)
def test_environment_is_what_the_process_reads(stack: dict[str, Any], name: str) -> None:
    given = {key.removeprefix("LEPTON_").lower() for key in stack[name]["environment"] if key.startswith("LEPTON_")}
    fields = SETTINGS[name].model_fields
    assert given <= set(fields)
    assert {field for field, info in fields.items() if info.is_required()} <= given


@pytest.mark.parametrize("name", SETTINGS)
def test_command_is_an_entry_point(stack: dict[str, Any], name: str) -> None:
    python, flag, module, *role = stack[name]["command"]
    assert (python, flag) == ("python", "-m")
    assert importlib.util.find_spec(f"{module}.__main__") is not None
    assert role == (["worker"] if name.endswith("-worker") else [])
    assert module == f"services.{name.removesuffix('-worker')}"


@pytest.mark.parametrize("name", SERVICE_OFFSETS)
def test_ports_are_those_of_the_embedded_platform(stack: dict[str, Any], name: str) -> None:
    environment = stack[name]["environment"]
    assert int(environment["LEPTON_PORT"]) == DEFAULT_BASE_PORT + SERVICE_OFFSETS[name]
    assert int(environment["LEPTON_PRIVATE_PORT"]) == DEFAULT_BASE_PORT + PRIVATE_OFFSETS[name]
    assert int(environment["LEPTON_METRICS_PORT"]) == DEFAULT_BASE_PORT + METRICS_OFFSETS[name]
    assert stack[name]["ports"][0]["published"] == environment["LEPTON_PORT"]
    for other in SETTINGS:
        address = stack[other]["environment"][f"LEPTON_{name.upper()}_ADDRESS"]
        assert address == f"{name}:{environment['LEPTON_PRIVATE_PORT']}"


def test_predictions_are_where_tritons_users_expect_them(stack: dict[str, Any]) -> None:
    environment = stack["inference-worker"]["environment"]
    assert int(environment["LEPTON_PORT"]) == DEFAULT_BASE_PORT + INFERENCE_GRPC_OFFSET
    assert int(environment["LEPTON_METRICS_PORT"]) == DEFAULT_BASE_PORT + INFERENCE_METRICS_OFFSET


@pytest.mark.parametrize("name", SETTINGS)
def test_health_check_asks_the_processs_own_port(stack: dict[str, Any], name: str) -> None:
    kind, python, flag, module, address, authority = stack[name]["healthcheck"]["test"]
    assert (kind, python, flag) == ("CMD", "python", "-m")
    assert importlib.util.find_spec(module) is not None
    assert address == f"127.0.0.1:{stack[name]['environment']['LEPTON_PORT']}"
    assert authority == stack[name]["environment"]["LEPTON_TLS_CA"]


def test_certificates_are_those_that_init_makes(stack: dict[str, Any], platform_files: Path) -> None:
    named = {
        Path(value).name
        for name in SETTINGS
        for value in stack[name]["environment"].values()
        if value and value.startswith("/credentials/")
    }
    assert all((platform_files / file).exists() for file in named), named


def test_databases_are_those_that_services_open(stack: dict[str, Any]) -> None:
    made = re.findall(r"CREATE DATABASE (\w+)", (ROOT / "deploy" / "databases.sql").read_text())
    opened = [stack[name]["environment"]["LEPTON_DATABASE_URL"].rsplit("/", 1)[1] for name in SERVICE_OFFSETS]
    assert sorted(made) == sorted(opened) == sorted(SERVICE_OFFSETS)


def test_prometheus_asks_for_every_services_metrics() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yaml").read_text())
    asked = {entry["names"][0]: entry["port"] for entry in config["scrape_configs"][0]["dns_sd_configs"]}
    expected = {name: DEFAULT_BASE_PORT + offset for name, offset in METRICS_OFFSETS.items()}
    assert asked == {**expected, "inference-worker": DEFAULT_BASE_PORT + INFERENCE_METRICS_OFFSET}


def test_mounted_files_and_copied_sources_exist(stack: dict[str, Any]) -> None:
    for service in stack.values():
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and "deploy" in volume["source"]:
                assert Path(volume["source"]).is_file()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
