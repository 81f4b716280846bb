"""A model version in ONNX Runtime, with what its requests are checked against."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnxruntime as ort

from servicekit.brain_floats import BRAIN_FLOAT
from servicekit.errors import InvalidArgument
from services.inference.serving.release_statistics import ReleaseStatistics
from services.inference.serving.run_errors import run_error
from services.inference.serving.statistics import Statistics

if TYPE_CHECKING:
    from services.inference.serving.response_cache import ResponseCache

Array = np.ndarray[Any, Any]
# What exporters call the batch; unnamed it is most often.
_BATCH_NAME = re.compile(r"^$|batch|rows|^(n|b|bs|none|\?)$|^unk", re.IGNORECASE)


# What a model's inputs are made of: a text, two that are read together, or an image file.
Item = str | tuple[str, str] | bytes


@dataclass
class UnknownCount:
    """How many values of a column were unknown categories since the model was loaded.

    Args:
        values: read.
        unknown: of them.
    """

    values: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class InputSpec:
    """One input, with the checks of its values.

    Args:
        name, datatype, shape: as in the graph; -1 for a variable dimension.
        any_rank: whether the graph leaves the number of dimensions open; its shape is empty then.
        is_optional: whether a request may leave it out.
        batch: what the graph calls the first dimension, where that varies: inputs that call it the same have as many
            rows; None where it is fixed, or where there is none.
        is_column: whether it is a column that training saw, so that the rules of missing values hold.
        nullable: whether NaN or an empty text may stand for a missing value.
        known: the categories to insist on; None to take any.
        categories: those that training saw, missing as the empty text; None where the column is none of categories.
        unknown: counts the values that are none of them.
        is_boolean: whether it is a column of truth values, whatever its datatype.
        is_temporal: whether it is a column of dates or times: microseconds since 1970-01-01T00:00:00Z.
        is_series: whether it is a column of series, (rows, steps), of which shorter ones end in NaN.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batch: str | None = None
    any_rank: bool = False
    is_optional: bool = False
    is_column: bool = False
    nullable: bool = False
    known: frozenset[str] | None = None
    categories: frozenset[str] | None = None
    unknown: UnknownCount = field(default_factory=UnknownCount, compare=False, repr=False)
    is_boolean: bool = False
    is_temporal: bool = False
    is_series: bool = False

    @property
    def counts_rows(self) -> bool:
        """Whether the first dimension is a number of rows, not of samples, candidates or steps."""
        if self.batch is None or len(self.shape) < 2:
            return False
        return self.is_column or _BATCH_NAME.search(self.batch) is not None


@dataclass(frozen=True)
class OutputSpec:
    """One output.

    Args:
        name, datatype, shape: as in the graph.
        any_rank: whether the graph leaves the number of dimensions open; its shape is empty then.
        labels: what its last dimension stands for; empty where unknown.
        is_by_row: whether its first dimension is called as the batch of an input is.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    is_by_row: bool = False
    any_rank: bool = False


class Preprocessing(Protocol):
    """Makes a model's inputs of texts or images, as declarative files beside the model say.

    Args:
        takes: texts or images.
    """

    takes: str

    def batches(self, items: Sequence[Item]) -> Iterator[dict[str, Array]]:
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
        is_by_row: whether each row's answer was shown to depend on that row alone.
        why_mixed: where it was not shown, for people.
        is_batching_off: whether its deployment wants no batches.
        batch_rows: most rows that requests are put together to.
        max_rows: most rows of one request.
        run_seconds: what a run of one row took at the warm-up.
        has_bounded_cost: whether a request's shape bounds the time of its run, as far as the graph and the runs show.
        warm_shapes, warm_rows: the form of the warm-up's runs, as batches.Form has it, and the most rows that were
            short.
        fixed_seconds: what a run takes beyond its rows, as far as that is known.
        row_seconds: mean of the last runs, a row.
        model: the id of the model in the registry.
        target: the name of the column that it predicts; empty where unknown.
        text_columns: the columns of texts that it reads: one, or two together; empty for none, and where nobody said.
        held: who keep it beyond their runs, counted on the event loop alone.
        preprocessing: makes its inputs of texts or images; None where no file beside it says how.
        statistics: what it did.
        cache: of its deployment's answers; None for none.
        forms: kinds of requests that it answered lately; see batches.find_form.
        plan: the name of its execution plan.
        threads: that one run uses; 0 for the worker's setting.
        tuned_for: what was wished when its plan was settled; None until then.
        memory_bytes: that loading it took; 0 where that was not measured.
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
    is_by_row: bool = False
    why_mixed: str = ""
    is_batching_off: bool = False
    batch_rows: int = 64
    max_rows: int = 1_048_576
    run_seconds: float = 0.0
    has_bounded_cost: bool = True
    warm_shapes: tuple[tuple[int, ...], ...] | None = None
    warm_rows: int = 0
    fixed_seconds: float = 0.0
    row_seconds: float = 0.0
    model: str = ""
    target: str = ""
    text_columns: tuple[str, ...] = ()
    held: int = 0
    preprocessing: Preprocessing | None = None
    statistics: Statistics = field(default_factory=Statistics, repr=False)
    cache: "ResponseCache | None" = None
    forms: dict[Any, Any] = field(default_factory=dict, repr=False)
    plan: str = "plain"
    threads: int = 0
    tuned_for: object = None
    memory_bytes: int = 0
    version: str = field(init=False)
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        self.version = str(self.number)
        self.provider = str(self.session.get_providers()[0])

    @property
    def release(self) -> ReleaseStatistics:
        """What came of its requests, for whoever compares versions."""
        return self.statistics.release

    @property
    def is_batchable(self) -> bool:
        """Whether rows of several requests may be run together."""
        return self.is_by_row and not self.is_batching_off

    @property
    def batching(self) -> str:
        """Whether rows of several requests are run together, and why not, for people."""
        if self.is_batching_off:
            return "not batched: the deployment has batching off"
        return "batched" if self.is_by_row else f"not batched: {self.why_mixed}"

    def turn_batching(self, *, off: bool) -> None:
        """Follow the deployment's setting; requests that wait in batches already still run so."""
        if self.is_batching_off != off:
            self.is_batching_off = off
            # What requests may share is decided once a form.
            self.forms.clear()

    @property
    def is_on_processor(self) -> bool:
        """Whether the thread that calls a run does its work."""
        return self.provider == "CPUExecutionProvider"

    def refuse_batches(self, why: str) -> None:
        """Run each request by itself from now on: a batch came out otherwise than the graph promised."""
        self.is_by_row, self.why_mixed = False, why
        self.forms.clear()

    def expected_seconds(self, rows: int) -> float:
        """Return how long a run of some rows may take, by what runs took before."""
        return max(self.run_seconds, self.row_seconds * rows)

    def take_over(self, old: "LoadedModel") -> None:
        """Take what is the version's from the one whose place this one takes: only how it runs is another."""
        self.epoch = old.epoch
        self.statistics, self.cache = old.statistics, old.cache
        self.preprocessing, self.max_rows = old.preprocessing, old.max_rows
        self.is_batching_off = old.is_batching_off
        self.memory_bytes = old.memory_bytes

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
            InvalidArgument: the model does not take these inputs, or an output is no text, for the input was none.
            LeptonError: as run_errors.run_error has it.
        """
        try:
            found: list[Array] = self.session.run(outputs, inputs, options)
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"model {self.deployment!r} answers this input with bytes that are no UTF-8 text, which ONNX Runtime's "
                "Python interface does not hand out: send UTF-8, or let the graph give numbers or base64",
                reason="BAD_TENSOR",
            ) from error
        except Exception as error:
            raise run_error(self.deployment, error) from error
        return found


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
    "BF16": BRAIN_FLOAT.type,
    "FP32": np.float32,
    "FP64": np.float64,
}
