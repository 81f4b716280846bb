"""Clients that other people wrote work unchanged, each in a process and an environment of its own."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import lepton
from lepton.models import LogisticRegression
from lepton.versions import ModelVersion
from tests.support.platform import Platform

ROOT = Path(__file__).parents[2]
CREDIT = ROOT / "examples" / "credit" / "german_credit.csv"
CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    connection = platform.connect()
    credit = lepton.Dataset.import_file(CREDIT, name="clients", label="creditability", connection=connection)
    deployment = lepton.Deploy(LogisticRegression(name="clients", connection=connection).fit(credit)).save()
    deployment.wait()
    return deployment.name


@pytest.mark.parametrize("client", ["triton_client.py", "triton_aio_client.py"])
def test_tritonclient_works_unchanged(platform: Platform, model: str, client: str) -> None:
    python = _environment(".venv-clients", "requirements.txt")
    ran = _run(platform, [str(python), str(CLIENTS / client)], model)
    assert ran.stdout.endswith("conformant\n"), ran.stderr[-3000:]


def test_tritonclients_http_client_works_unchanged(platform: Platform, model: str) -> None:
    python = _environment(".venv-clients", "requirements.txt")
    ran = _run(platform, [str(python), str(CLIENTS / "triton_http_client.py")], model, port=0)
    assert ran.stdout.endswith("conformant\n"), ran.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kserves_client_works_unchanged(platform: Platform, model: str) -> None:
    python = _environment(".venv-kserve", "kserve-requirements.txt")
    signature = ModelVersion.get(model, connection=platform.connect()).signature
    columns = [f"{spec.name}={'text' if spec.datatype == 'BYTES' else 'number'}" for spec in signature.inputs]
    rest = f"https://127.0.0.1:{platform.base_port}"
    ran = _run(platform, [str(python), str(CLIENTS / "kserve_client.py")], model, rest, *columns)
    assert ran.stdout.endswith("conformant\n"), ran.stderr[-3000:]


def test_grpcurl_finds_its_way_by_reflection(platform: Platform, model: str) -> None:
    credentials = platform.home / "credentials"
    grpcurl = [str(Path(sys.executable).parent / "grpcurl"), "-cacert", str(credentials / "ca.pem")]
    address = f"127.0.0.1:{platform.base_port + 1}"
    listed = subprocess.run([*grpcurl, address, "list"], capture_output=True, text=True, check=True, timeout=300)
    assert "inference.GRPCInferenceService" in listed.stdout.split()
    header = f"authorization: Bearer {(credentials / 'token').read_text()}"
    request = f'{{"name": "{model}"}}'
    method = "inference.GRPCInferenceService/ModelMetadata"
    asked = subprocess.run(
        [*grpcurl, "-H", header, "-d", request, address, method],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert '"platform": "onnxruntime_onnx"' in asked.stdout


def _environment(name: str, requirements: str) -> Path:
    """Return the interpreter of an environment with a client in it, made on first use."""
    python = ROOT / name / "bin" / "python"
    # Named by what it holds: other requirements make it anew.
    done = ROOT / name / hashlib.sha256((CLIENTS / requirements).read_bytes()).hexdigest()[:16]
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(CLIENTS / requirements)], check=True)
        done.touch()
    return python


def _run(
    platform: Platform, command: list[str], model: str, *more: str, port: int = 1
) -> subprocess.CompletedProcess[str]:
    credentials = platform.home / "credentials"
    token = (credentials / "token").read_text()
    arguments = [f"127.0.0.1:{platform.base_port + port}", str(credentials / "ca.pem"), token, model, *more]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)
