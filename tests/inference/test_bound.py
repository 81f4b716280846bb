"""Sessions bound to a device: on the processor the same code, on a GPU what it is for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from servicekit.gpus import Gpu, freest, read_gpus
from services.inference.serving.bound import BoundSession
from services.inference.serving.model import NUMPY_TYPES
from services.inference.serving.session import cuda_options, open_session
from tests.inference.models import identity_graph

_HAS_GPU = Path("/dev/nvidiactl").exists()
needs_gpu = pytest.mark.skipif(not _HAS_GPU, reason="needs a CUDA device")


def _products() -> bytes:
    """Return a graph of two outputs: x @ w, of any rows, and the sums of its rows."""
    weights = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("ReduceSum", ["product", "axis"], ["sums"], keepdims=0),
        ],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [
            helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["batch"]),
        ],
        [
            helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.reshape(-1)),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


def _session(content: bytes) -> Any:
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


def _rows(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def test_bound_runs_answer_as_plain_ones_whatever_their_shape_and_order() -> None:
    plain = _session(_products())
    bound = BoundSession(_session(_products()), "cpu")
    for seed, rows in enumerate([1, 4, 1, 4, 4, 2, 1]):
        feeds = {"x": _rows(rows, seed)}
        for outputs in (None, ["sums"], ["sums", "product"]):
            for found, expected in zip(bound.run(outputs, feeds), plain.run(outputs, feeds), strict=True):
                assert np.array_equal(found, expected)
    assert bound.get_providers() == ["CPUExecutionProvider"]
    assert [item.name for item in bound.get_outputs()] == ["product", "sums"]


def test_answers_stay_when_their_buffers_are_used_again() -> None:
    bound = BoundSession(_session(_products()), "cpu")
    first = bound.run(["product"], {"x": _rows(2, 1)})[0]
    kept = first.copy()
    bound.run(["product"], {"x": _rows(2, 2)})
    assert np.array_equal(first, kept)


# A session with bfloat16 is never bound to a device: see `open_session`.
@pytest.mark.parametrize("datatype", [name for name in (*NUMPY_TYPES, "BYTES") if name != "BF16"])
def test_every_datatype_goes_through(datatype: str) -> None:
    texts = np.array([["a", "", "é"]], dtype=object)
    values = texts if datatype == "BYTES" else np.array([[0, 1, 100]]).astype(NUMPY_TYPES[datatype])
    bound = BoundSession(_session(identity_graph(datatype)), "cpu")
    for _ in range(2):
        [found] = bound.run(None, {"x": values})
        assert found.dtype == values.dtype
        assert found.tolist() == values.tolist()


def test_threads_at_once_get_each_its_own() -> None:
    plain = _session(_products())
    bound = BoundSession(_session(_products()), "cpu")

    def ask(seed: int) -> bool:
        feeds = {"x": _rows(1 + seed % 40, seed)}
        return np.array_equal(bound.run(["product"], feeds)[0], plain.run(["product"], feeds)[0])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


def test_sessions_share_a_gpu_by_its_memory() -> None:
    gpus = [Gpu(0.5, 70, 100), Gpu(0.1, 20, 200), Gpu(0.0, 150, 200)]
    assert freest(gpus) == 1
    assert freest([]) == 0
    assert cuda_options(gpus, 1, captures=False, gpu_share=0.25) == {"device_id": "1", "gpu_mem_limit": "50"}
    assert cuda_options(gpus, 0, captures=True, gpu_share=0.0) == {"device_id": "0", "enable_cuda_graph": "1"}
    assert cuda_options([], 0, captures=False, gpu_share=1.0) == {"device_id": "0"}


@pytest.mark.skipif(_HAS_GPU, reason="is about a machine without a GPU")
def test_machine_without_a_driver_has_no_gpus() -> None:
    assert read_gpus() == []


@pytest.mark.gpu
@needs_gpu
def test_driver_tells_of_its_gpus() -> None:
    gpus = read_gpus()
    assert gpus
    assert all(0 < gpu.used_bytes < gpu.memory_bytes and 0 <= gpu.utilization <= 1 for gpu in gpus)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("captures", [False, True], ids=["bound", "CUDA graph"])
def test_gpu_answers_as_the_processor_does(captures: bool) -> None:
    session = open_session(_products(), 1, captures=captures)
    assert isinstance(session, BoundSession)
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    plain = _session(_products())
    # The third run of a shape is the first that is replayed.
    for seed, rows in enumerate([1, 4, 1, 4, 4, 4, 1, 1, 2]):
        feeds = {"x": _rows(rows, seed)}
        for found, expected in zip(session.run(None, feeds), plain.run(None, feeds), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_several_sessions_stand_on_one_gpu() -> None:
    sessions = [open_session(_products(), 1, gpu_share=0.1) for _ in range(4)]
    feeds = {"x": _rows(3)}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda session: session.run(["sums"], feeds)[0], sessions * 20))
    assert all(np.allclose(answer, answers[0]) for answer in answers)
