"""A model version in ONNX Runtime, with what its requests are checked against."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lepton.v1 import common_pb2, registry_pb2
from servicekit.errors import FailedPrecondition, Internal, InvalidArgument
from services.inference.serving.release_statistics import ReleaseStatistics

Array = np.ndarray[Any, Any]

# CUDA where there is a GPU, else the processor. Asking for what lacks raises nothing: the session tells what it took.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_NVIDIA_DEVICE = "/dev/nvidiactl"

ORT_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


@dataclass(frozen=True)
class InputSpec:
    """One input, with the checks of its values.

    Args:
        name, datatype, shape: as in the graph; -1 for a variable dimension.
        batch: what the graph calls the first dimension, where that varies: inputs that call it the same have as many
            rows; None where it is fixed, or where there is none.
        is_column: whether it is a column that training saw, so that the rules of missing values hold.
        nullable: whether NaN or an empty text may stand for a missing value.
        known: the categories to insist on; None to take any.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batch: str | None = None
    is_column: bool = False
    nullable: bool = False
    known: frozenset[str] | None = None


@dataclass(frozen=True)
class OutputSpec:
    """One output.

    Args:
        name, datatype, shape: as in the graph.
        labels: what its last dimension stands for; empty where unknown.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass
class LoadedModel:
    """A version that can be run.

    Args:
        deployment, number, digest: which one it is.
        session: ONNX Runtime's.
        inputs: by name, in the graph's order.
        outputs: by name, in the graph's order.
        epoch: of its placement: the latest placed answers for the deployment.
        workspace: whose it is.
        in_flight: runs under way.
        run_seconds: what a run of one row took at the warm-up.
        row_seconds: mean of the last runs, a row.
        release: what came of its requests, for whoever compares versions.
        version: the number, as it is sent.
        provider: the execution provider that the session took.
    """

    deployment: str
    number: int
    digest: str
    session: Any
    inputs: dict[str, InputSpec]
    outputs: dict[str, OutputSpec]
    epoch: int = 0
    workspace: str = ""
    in_flight: int = 0
    run_seconds: float = 0.0
    row_seconds: float = 0.0
    release: ReleaseStatistics = field(default_factory=ReleaseStatistics)
    version: str = field(init=False)
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        self.version = str(self.number)
        self.provider = str(self.session.get_providers()[0])

    def expected_seconds(self, rows: int) -> float:
        """Return how long a run of some rows may take, by what runs took before."""
        return max(self.run_seconds, self.row_seconds * rows)

    def learn(self, rows: int, seconds: float) -> None:
        """Remember how long a run took."""
        self.row_seconds += 0.1 * (seconds / max(rows, 1) - self.row_seconds)

    def run(self, inputs: dict[str, Array], outputs: list[str], options: ort.RunOptions | None = None) -> list[Array]:
        """Return some outputs for a batch. Blocks.

        Args:
            inputs: by name, checked.
            outputs: the names of those that are wanted.
            options: through which another thread may end the run.

        Raises:
            InvalidArgument: an output is no text, for the input was none.
            Internal: the model failed; nothing of its inside is told.
        """
        try:
            found: list[Array] = self.session.run(outputs, inputs, options)
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"model {self.deployment!r}: expected UTF-8 text, got bytes that its outputs cannot carry",
                reason="BAD_TENSOR",
            ) from error
        except Exception as error:
            raise Internal(f"model {self.deployment!r} failed on this input", reason="MODEL_FAULT") from error
        return found


def load_model(
    deployment: str,
    version: registry_pb2.Version,
    content: bytes,
    *,
    epoch: int = 0,
    threads: int = 1,
    workspace: str = "",
) -> LoadedModel:
    """Load a version and try it on a row. Blocks.

    Args:
        deployment: whose it is.
        version: what the registry says of it.
        content: its model.onnx.
        epoch: of its placement.
        threads: that one run may use.
        workspace: whose the deployment is.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load or run it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    available = [provider for provider in PROVIDERS if provider in ort.get_available_providers()]
    if not Path(_NVIDIA_DEVICE).exists():
        # Without a GPU, asking for CUDA only prints errors for every model.
        available = [provider for provider in available if provider == PROVIDERS[-1]]
    try:
        session = ort.InferenceSession(content, options, providers=available)
    except Exception as error:
        raise FailedPrecondition(f"the model cannot be loaded: {_first_line(error)}", reason="LOAD_FAILED") from error
    signature = version.signature
    specs = {spec.name: spec for spec in signature.inputs}
    inputs = {item.name: _input(item, specs.get(item.name), signature) for item in session.get_inputs()}
    outputs = {item.name: _output(item, tuple(signature.classes)) for item in session.get_outputs()}
    model = LoadedModel(deployment, version.number, version.digest, session, inputs, outputs, epoch, workspace)
    _warm_up(model)
    return model


def _input(item: Any, spec: common_pb2.TensorSpec | None, signature: common_pb2.Signature) -> InputSpec:
    shape = _shape(item)
    batch = (item.shape[0] or "") if shape[:1] == (-1,) else None
    if spec is None or not spec.kind:
        return InputSpec(item.name, _datatype(item), shape, batch)
    insists = signature.handle_unknown == "error" and spec.kind == common_pb2.COLUMN_KIND_CATEGORICAL
    # A missing value is no category, and is checked by itself.
    known = frozenset((*spec.categories, "")) if insists else None
    return InputSpec(item.name, _datatype(item), shape, batch, is_column=True, nullable=spec.nullable, known=known)


def _output(item: Any, classes: tuple[str, ...]) -> OutputSpec:
    shape = _shape(item)
    labels = classes if classes and shape[-1:] == (len(classes),) else ()
    return OutputSpec(item.name, _datatype(item), shape, labels)


def _shape(item: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else -1 for size in item.shape)


def _datatype(item: Any) -> str:
    # ONNX Runtime's Python interface carries no BF16 tensors, nor sequences and maps over any wire.
    if item.type not in ORT_DATATYPES:
        raise FailedPrecondition(
            f"the graph takes or gives a {item.type} as {item.name!r}, which cannot be served", reason="LOAD_FAILED"
        )
    return ORT_DATATYPES[item.type]


def _warm_up(model: LoadedModel) -> None:
    """Run twice: the first run allocates, and on a GPU compiles; the second tells how long one takes."""
    sample: dict[str, Array] = {}
    for spec in model.inputs.values():
        shape = [1 if size < 0 else size for size in spec.shape]
        kind = object if spec.datatype == "BYTES" else NUMPY_TYPES[spec.datatype]
        sample[spec.name] = np.full(shape, "a", dtype=object) if kind is object else np.ones(shape, dtype=kind)
    try:
        model.session.run(None, sample)
        started = time.perf_counter()
        model.session.run(None, sample)
        model.run_seconds = model.row_seconds = time.perf_counter() - started
    except Exception as error:
        raise FailedPrecondition(f"the model cannot be run: {_first_line(error)}", reason="LOAD_FAILED") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
