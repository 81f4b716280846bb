"""A model version in ONNX Runtime, with what its requests are checked against."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnxruntime as ort

from lepton.v1 import common_pb2, registry_pb2
from servicekit.errors import FailedPrecondition, Internal, InvalidArgument
from services.inference.serving.release_statistics import ReleaseStatistics
from services.inference.serving.statistics import Statistics

if TYPE_CHECKING:
    from services.inference.serving.response_cache import ResponseCache

Array = np.ndarray[Any, Any]

# CUDA where there is a GPU, else the processor. Asking for what lacks raises nothing: the session tells what it took.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_NVIDIA_DEVICE = "/dev/nvidiactl"
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}

# The warm-up measures what a batch saves, but of a model that is slow already.
_SLOW_SECONDS = 0.05
_TRIAL_ROWS = 8
_TIMINGS = 3

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
        is_boolean: whether it is a column of truth values, whatever its datatype.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batch: str | None = None
    is_column: bool = False
    nullable: bool = False
    known: frozenset[str] | None = None
    is_boolean: bool = False


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


class Preprocessing(Protocol):
    """Makes a model's inputs of texts or images, as declarative files beside the model say.

    Args:
        takes: texts or images.
    """

    takes: str

    def batches(self, items: Sequence[str | bytes]) -> Iterator[dict[str, Array]]:
        """Yield the inputs of as many items as run together, in order. Blocks.

        Raises:
            InvalidArgument: an item is too large, or is none.
        """
        ...


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
        in_flight: requests under way.
        waiting, waiting_rows: those of them that wait for their run.
        is_batchable: whether rows of several requests may be run together: tried at the warm-up.
        batch_rows: most rows that requests are put together to.
        max_rows: most rows of one request.
        run_seconds: what a run of one row took at the warm-up.
        fixed_seconds: what a run takes beyond its rows, as far as that is known.
        row_seconds: mean of the last runs, a row.
        model: the id of the model in the registry.
        target: the name of the column that it predicts; empty where unknown.
        held: who keep it beyond their runs, counted on the event loop alone.
        preprocessing: makes its inputs of texts or images; None where no file beside it says how.
        statistics: what it did.
        cache: of its deployment's answers; None for none.
        forms: kinds of requests that it answered lately; see batches.find_form.
        plan: the name of its execution plan.
        threads: that one run uses; 0 for the worker's setting.
        tuned_for: what was wished when its plan was settled; None until then.
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
    waiting: int = 0
    waiting_rows: int = 0
    is_batchable: bool = False
    batch_rows: int = 64
    max_rows: int = 1_048_576
    run_seconds: float = 0.0
    fixed_seconds: float = 0.0
    row_seconds: float = 0.0
    model: str = ""
    target: str = ""
    held: int = 0
    preprocessing: Preprocessing | None = None
    statistics: Statistics = field(default_factory=Statistics, repr=False)
    cache: "ResponseCache | None" = None
    forms: dict[Any, Any] = field(default_factory=dict, repr=False)
    plan: str = "plain"
    threads: int = 0
    tuned_for: object = None
    version: str = field(init=False)
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        self.version = str(self.number)
        self.provider = str(self.session.get_providers()[0])

    @property
    def release(self) -> ReleaseStatistics:
        """What came of its requests, for whoever compares versions."""
        return self.statistics.release

    def expected_seconds(self, rows: int) -> float:
        """Return how long a run of some rows may take, by what runs took before."""
        return max(self.run_seconds, self.row_seconds * rows)

    def take_over(self, old: "LoadedModel") -> None:
        """Take what is the version's from the one whose place this one takes: only how it runs is another."""
        self.epoch = old.epoch
        self.statistics, self.cache = old.statistics, old.cache
        self.preprocessing, self.max_rows = old.preprocessing, old.max_rows
        # Integer arithmetic scales by the batch: its rows differ by more than the warm-up allows, and were judged so.
        self.is_batchable = old.is_batchable

    def queue_seconds(self) -> float:
        """Return how long what waits now will take."""
        return self.expected_seconds(self.waiting_rows)

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
    optimization: str = "all",
    provider: str = "",
) -> LoadedModel:
    """Load a version and try it on a row. Blocks.

    Args:
        deployment: whose it is.
        version: what the registry says of it.
        content: its model.onnx.
        epoch: of its placement.
        threads: that one run may use.
        workspace: whose the deployment is.
        optimization: ONNX Runtime's level of graph optimisation: all or extended.
        provider: the execution provider to prefer; empty for the usual ones.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load or run it.
    """
    session = open_session(content, threads, optimization, provider)
    signature = version.signature
    specs = {spec.name: spec for spec in signature.inputs}
    inputs = {item.name: _input(item, specs.get(item.name), signature) for item in session.get_inputs()}
    outputs = {item.name: _output(item, tuple(signature.classes)) for item in session.get_outputs()}
    model = LoadedModel(deployment, version.number, version.digest, session, inputs, outputs, epoch, workspace)
    model.model, model.target = version.model, signature.target
    _warm_up(model)
    return model


def open_session(content: bytes, threads: int, optimization: str = "all", provider: str = "") -> Any:
    """Return an ONNX Runtime session of a graph; see `load_model`.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = _LEVELS[optimization]
    available = [name for name in PROVIDERS if name in ort.get_available_providers()]
    if not Path(_NVIDIA_DEVICE).exists():
        # Without a GPU, asking for CUDA only prints errors for every model.
        available = [name for name in available if name == PROVIDERS[-1]]
    preferred = [provider] if provider and provider not in available else []
    try:
        return ort.InferenceSession(content, options, providers=preferred + available)
    except Exception as error:
        raise FailedPrecondition(f"the model cannot be loaded: {_first_line(error)}", reason="LOAD_FAILED") from error


def _input(item: Any, spec: common_pb2.TensorSpec | None, signature: common_pb2.Signature) -> InputSpec:
    shape = _shape(item)
    batch = (item.shape[0] or "") if shape[:1] == (-1,) else None
    if spec is None or not spec.kind:
        return InputSpec(item.name, _datatype(item), shape, batch)
    insists = signature.handle_unknown == "error" and spec.kind == common_pb2.COLUMN_KIND_CATEGORICAL
    # A missing value is no category, and is checked by itself.
    known = frozenset((*spec.categories, "")) if insists else None
    return InputSpec(
        item.name,
        _datatype(item),
        shape,
        batch,
        is_column=True,
        nullable=spec.nullable,
        known=known,
        is_boolean=spec.kind == common_pb2.COLUMN_KIND_BOOLEAN,
    )


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
    """Run some times: the first run allocates, and on a GPU compiles; the others tell what runs and batches take."""
    one = _sample(model, 1)
    try:
        model.session.run(None, one)
        model.run_seconds = model.row_seconds = _timed(model, one)
        model.is_batchable = _is_batchable(model)
    except Exception as error:
        raise FailedPrecondition(f"the model cannot be run: {_first_line(error)}", reason="LOAD_FAILED") from error
    if model.is_batchable and model.run_seconds < _SLOW_SECONDS:
        one_row = min(_timed(model, one) for _ in range(_TIMINGS))
        many = _stacked(one, _TRIAL_ROWS)
        many_rows = min(_timed(model, many) for _ in range(_TIMINGS))
        # The least of some: one disturbed timing would have short runs handed to threads until it is outgrown.
        model.run_seconds = min(model.run_seconds, one_row)
        model.row_seconds = many_rows / _TRIAL_ROWS
        model.fixed_seconds = max(one_row - (many_rows - one_row) / (_TRIAL_ROWS - 1), 0.0)


def _is_batchable(model: LoadedModel) -> bool:
    """Try whether two rows run together get what each gets alone: not so where a graph fixes or mixes its batch."""
    if not model.inputs or any(spec.batch is None for spec in model.inputs.values()):
        return False
    rows = [_sample(model, 1), _sample(model, 0)]
    together = {name: np.concatenate([row[name] for row in rows]) for name in model.inputs}
    try:
        alone = [model.session.run(None, row) for row in rows]
        both = model.session.run(None, together)
    except Exception:
        # It answered one row before: so it is the batch that it does not take.
        return False
    return all(
        array.shape[:1] == (2,) and _agree(array[:1], first) and _agree(array[1:], second)
        for array, first, second in zip(both, *alone, strict=True)
    )


def _agree(found: Array, expected: Array) -> bool:
    if found.shape != expected.shape:
        return False
    if found.dtype.kind == "f":
        # Sums in another order differ in their last digits; integer arithmetic scales by the batch.
        return bool(np.allclose(found, expected, rtol=0.05, atol=0.05, equal_nan=True))
    return bool(np.array_equal(found, expected))


def _sample(model: LoadedModel, value: int) -> dict[str, Array]:
    """Return one row of ones or of zeros; of texts "a" or "b"."""
    sample: dict[str, Array] = {}
    for spec in model.inputs.values():
        shape = [1 if size < 0 else size for size in spec.shape]
        if spec.datatype == "BYTES":
            sample[spec.name] = np.full(shape, "a" if value else "b", dtype=object)
        else:
            sample[spec.name] = np.full(shape, value, dtype=NUMPY_TYPES[spec.datatype])
    return sample


def _stacked(sample: dict[str, Array], rows: int) -> dict[str, Array]:
    return {name: np.concatenate([array] * rows) for name, array in sample.items()}


def _timed(model: LoadedModel, inputs: dict[str, Array]) -> float:
    started = time.perf_counter()
    model.session.run(None, inputs)
    return time.perf_counter() - started


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
