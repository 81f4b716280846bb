"""The verifying child: what it finds in models, good, broken and harmful, and what it may not do."""

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from services.registry.adapters.verifier import ChildVerifier
from services.registry.domain.versions import Tensor, Verdict
from tests.support import onnx_models


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


async def _verify(content: bytes, seconds: float = 120.0, examples: dict[str, str] | None = None) -> Verdict:
    return await ChildVerifier(seconds).verify(_pieces(content), len(content), examples or {})


def _children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        # One that ends meanwhile is a zombie or gone.
        with contextlib.suppress(psutil.Error):
            if "services.registry.verifier" in child.cmdline():
                found.append(child)
    return found


async def test_good_model_tells_its_signature_and_digest() -> None:
    content = onnx_models.linear_model()
    verdict = await _verify(content)
    assert verdict == Verdict(
        (Tensor("x", "FP32", (-1, 2)),),
        (Tensor("prediction", "FP32", (-1, 1)),),
        None,
        hashlib.sha256(content).hexdigest(),
    )


async def test_strings_and_classic_operators_are_tried_with_known_values() -> None:
    verdict = await _verify(onnx_models.column_model(), examples={"kind": "b"})
    assert verdict.refusal is None
    assert verdict.inputs == (Tensor("amount", "FP32", (-1, 1)), Tensor("kind", "BYTES", (-1, 1)))


async def test_model_of_one_fixed_row_is_tried_as_it_is() -> None:
    verdict = await _verify(onnx_models.linear_model(batch=1))
    assert verdict.refusal is None
    assert verdict.inputs[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is no model", "NOT_ONNX"),
        (onnx_models.linear_model()[:-20], "NOT_ONNX"),
        (b"location" + onnx_models.linear_model()[:-20], "NOT_ONNX"),
        (onnx_models.external_data_model("weights.bin"), "LOAD_FAILED"),
        (onnx_models.external_data_model("/etc/hostname"), "LOAD_FAILED"),
        (onnx_models.hidden_external_data_model("/etc/hostname"), "LOAD_FAILED"),
        (onnx_models.custom_domain_model(), "LOAD_FAILED"),
        (onnx_models.greedy_model(), "VERIFIER_OUT_OF_MEMORY"),
    ],
    ids=["text", "cut", "cut-marked", "external", "absolute", "hidden", "domain", "greedy"],
)
async def test_bad_model_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    verdict = await _verify(content)
    assert verdict.refusal is not None
    assert verdict.refusal.reason == reason, verdict.refusal.message
    assert len(verdict.refusal.message) < 500


async def test_external_file_is_refused_even_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 8)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.chdir(tmp_path)
    verdict = await _verify(onnx_models.external_data_model("weights.bin"))
    assert verdict.refusal is not None
    assert "other files" in verdict.refusal.message


async def test_endless_prediction_is_ended_and_its_process_is_gone() -> None:
    verdict = await _verify(onnx_models.endless_model(), seconds=1.5)
    assert verdict.refusal is not None
    assert verdict.refusal.reason == "VERIFIER_TIMEOUT"
    assert not _children()


async def test_child_goes_with_the_call_that_was_cancelled() -> None:
    trying = asyncio.create_task(_verify(onnx_models.endless_model()))
    while not _children():
        await asyncio.sleep(0.02)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert not _children()


async def test_no_more_children_than_allowed_run_at_a_time() -> None:
    verifier = ChildVerifier(120.0, parallel=2)
    content = onnx_models.linear_model()
    trying = asyncio.gather(*(verifier.verify(_pieces(content), len(content), {}) for _ in range(5)))
    most = 0
    while not trying.done():
        most = max(most, len(_children()))
        await asyncio.sleep(0.005)
    assert all(verdict.refusal is None for verdict in await trying)
    assert most <= 2


async def test_failure_of_the_store_is_no_verdict() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise ConnectionError("the store went away")

    with pytest.raises(ConnectionError):
        await ChildVerifier(120.0).verify(broken(), 100, {})
    assert not _children()


def test_child_has_no_network_no_core_dumps_and_can_write_no_file(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        script = f"""
import os, resource, socket
from services.registry.verifier.__main__ import limit
limit(1 << 30, 5)
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
try:
    bytearray(2 << 30)
    print("memory")
except MemoryError:
    pass
try:
    socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 2)
    print("network")
except OSError:
    pass
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open({str(tmp_path / "file")!r}, "w") as file:
        file.write("x")
    print("file")
except OSError:
    pass
"""
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    held = set(found.stdout.split())
    if not _namespaces_are_allowed():
        held.discard("network")
    assert held == set()


def _namespaces_are_allowed() -> bool:
    probe = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    return subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_the_service_itself_loads_no_model_library() -> None:
    probe = (
        "import sys, services.registry.__main__; "
        "print([name for name in ('onnx', 'onnxruntime', 'numpy', 'torch', 'pandas') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
