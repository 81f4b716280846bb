"""Builds a candidate's graph from the registered one. For the child alone: it loads onnx and what rewrites graphs."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from services.inference.plans.candidates import Candidate

_FUSED_DOMAIN = "com.microsoft"

Feed = dict[str, np.ndarray[Any, Any]]


class NotBuilt(Exception):
    """A candidate's graph cannot be built; its text says why, for people."""


def build(candidate: Candidate, content: bytes, calibration: Sequence[Feed]) -> bytes:
    """Return a candidate's graph: the same bytes each time for the same arguments.

    Temporary files hold graphs alone, in the folder that TMPDIR names.

    Args:
        candidate: which one.
        content: the registered graph.
        calibration: runs that static quantisation takes its ranges from.

    Raises:
        NotBuilt: it cannot be built.
    """
    if not candidate.changes_graph:
        return content
    try:
        model = onnx.load_from_string(content)
        # Shapes that an exporter noted may contradict what inference finds in a rewritten graph.
        del model.graph.value_info[:]
        if candidate.is_fused:
            model = _fused(model)
        if candidate.precision == "fp16":
            return _halved(model)
        if candidate.quantization == "dynamic":
            return _dynamic(model, candidate)
        if candidate.quantization == "static":
            return _static(model, candidate, calibration)
        return bytes(model.SerializeToString(deterministic=True))
    except (NotBuilt, MemoryError):
        raise
    except Exception as error:
        # The libraries that rewrite graphs raise anything for a graph that they do not expect.
        first = str(error).strip().split("\n", 1)[0][:200]
        raise NotBuilt(f"not built: {type(error).__name__}: {first}") from error


def _fused(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers import optimizer

    optimized = optimizer.optimize_model(model, "bert", opt_level=0)
    if not any(optimized.get_fused_operator_statistics().values()):
        raise NotBuilt("not built: the optimiser for transformers finds nothing to fuse")
    fused: onnx.ModelProto = optimized.model
    if _FUSED_DOMAIN not in {opset.domain for opset in fused.opset_import}:
        fused.opset_import.append(onnx.helper.make_opsetid(_FUSED_DOMAIN, 1))
    return fused


def _halved(model: onnx.ModelProto) -> bytes:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = convert_float_to_float16(model, keep_io_types=True)
    return bytes(halved.SerializeToString(deterministic=True))


def _dynamic(model: onnx.ModelProto, candidate: Candidate) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    return _written(
        lambda path: quantize_dynamic(
            model,
            path,
            per_channel=True,
            reduce_range=candidate.reduces_range,
            weight_type=QuantType.QInt8,
            extra_options=_extra(),
        )
    )


def _static(model: onnx.ModelProto, candidate: Candidate, calibration: Sequence[Feed]) -> bytes:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self._feeds = iter(calibration)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    def quantize(path: Path) -> None:
        # From files: what the library is given in memory it writes as two, and then looks for both in vain.
        plain, prepared = path.with_name("plain.onnx"), path.with_name("prepared.onnx")
        plain.write_bytes(model.SerializeToString(deterministic=True))
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=candidate.reduces_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=_extra(),
        )

    return _written(quantize)


def _extra() -> dict[str, Any]:
    # What a fused operator gives has no type for the quantiser unless it is told one.
    return {"DefaultTensorType": onnx.TensorProto.FLOAT}


def _written(write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lepton-graph-") as folder:
        path = Path(folder) / "model.onnx"
        write(path)
        return path.read_bytes()
