"""The prediction service's RPCs: from proto, call, to proto."""

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from itertools import chain

from lepton.v1 import prediction_pb2 as pb
from lepton.v1 import prediction_pb2_grpc
from servicekit.auth import current_identity
from servicekit.errors import FailedPrecondition, InvalidArgument, LeptonError, NotFound, Unavailable
from servicekit.rpc import Context, bounded_timeout
from services.inference.predict.answers import read_answers, to_predictions, wanted_outputs
from services.inference.predict.aside import Aside
from services.inference.predict.rows import rows_to_arrays
from services.inference.predict.running import Run, asks_singly
from services.inference.predict.scoring import Scorer
from services.inference.predict.unknown import UnknownValues
from services.inference.serving.forwarding import Forwarder
from services.inference.serving.model import Array, Item, LoadedModel, Preprocessing
from services.inference.serving.servicer import is_marked_call, sticky_key_of_call
from services.inference.serving.table import ServingTable

_SERVICE = "lepton.v1.PredictionService"

# Values that are read and answered within a millisecond or so, faster than a thread is woken and waited for.
_INLINE_VALUES = 500
_FILES = {"texts": "tokenizer.json, and inputs input_ids and attention_mask", "images": "image.json"}
_KINDS = ("rows", "texts", "text_pairs", "images")


class PredictionServicer(prediction_pb2_grpc.PredictionServiceServicer):
    """Serves lepton.v1.PredictionService from a worker's table.

    Args:
        table: who is served.
        run: runs a model, with whatever batches, counts and limits runs.
        scorer: scores datasets.
        forwarder: asks other workers of what stands there; None for a worker alone.
    """

    def __init__(self, table: ServingTable, run: Run, scorer: Scorer, forwarder: Forwarder | None = None) -> None:
        self._table = table
        self._run = run
        self._scorer = scorer
        self._forwarder = forwarder
        self._aside = Aside()

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Answer for some rows, texts, pairs of texts or images."""
        kind = _one_input(request)
        try:
            # A request that names no version may go to one with a share, as tensors do.
            key = sticky_key_of_call(context)
            model = self._table.route(current_identity().workspace, request.deployment, request.version, key)
        except (NotFound, Unavailable) as why:
            return await self._forwarded(request, context, why)
        unknown = UnknownValues(model)
        if kind == "rows":
            predictions = await self._of_rows(request, model, unknown)
        else:
            predictions = await self._of_files(request, model, kind)
        prediction_id = uuid.uuid4().hex
        context.set_trailing_metadata((("lepton-prediction-id", prediction_id), ("lepton-provider", model.provider)))
        return pb.PredictResponse(
            predictions=predictions,
            version_number=model.number,
            prediction_id=prediction_id,
            unknown_categories=unknown.to_proto(),
        )

    async def ScoreDataset(
        self, request: pb.ScoreDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ScoreDatasetResponse]:
        """Score a dataset version into a new one."""
        try:
            model = self._table.find(current_identity().workspace, request.deployment, request.version)
        except (NotFound, Unavailable) as why:
            steps = self._forwarded_scoring(request, context, why)
        else:
            steps = self._scorer.score(request, model)
        # Closed with this one, so that a caller who goes stops reading and writing at once.
        async with contextlib.aclosing(steps):
            async for progress in steps:
                yield progress

    async def _forwarded(
        self, request: pb.PredictRequest, context: Context, why: NotFound | Unavailable
    ) -> pb.PredictResponse:
        if self._forwarder is None:
            raise why
        forwarded = await self._forwarder.unary(
            f"/{_SERVICE}/Predict",
            request.SerializeToString(),
            (request.deployment, request.version),
            current_identity(),
            why,
            seconds=bounded_timeout(None),
            is_marked=is_marked_call(context),
        )
        context.set_trailing_metadata(forwarded.metadata)
        return pb.PredictResponse.FromString(forwarded.reply)

    async def _forwarded_scoring(
        self, request: pb.ScoreDatasetRequest, context: Context, why: NotFound | Unavailable
    ) -> AsyncGenerator[pb.ScoreDatasetResponse, None]:
        if self._forwarder is None:
            raise why
        replies = self._forwarder.stream(
            f"/{_SERVICE}/ScoreDataset",
            request.SerializeToString(),
            (request.deployment, request.version),
            current_identity(),
            why,
            seconds=bounded_timeout(None),
            is_marked=is_marked_call(context),
        )
        async with contextlib.aclosing(replies):
            async for reply in replies:
                yield pb.ScoreDatasetResponse.FromString(reply)

    def close(self) -> None:
        """Let what is being read end."""
        self._aside.close()

    async def _of_rows(
        self, request: pb.PredictRequest, model: LoadedModel, unknown: UnknownValues
    ) -> list[pb.Prediction]:
        names, rows = wanted_outputs(model), len(request.rows)
        if rows * len(model.inputs) <= _INLINE_VALUES:
            with _refusals_counted(model):
                inputs = rows_to_arrays(request.rows, model)
            unknown.add(inputs, rows)
            return _predictions(model, await self._run(model, inputs, names), rows)
        with _refusals_counted(model):
            inputs = await self._aside.run(rows_to_arrays, request.rows, model)
        unknown.add(inputs, rows)
        arrays = await self._run(model, inputs, names)
        return await self._aside.run(_predictions, model, arrays, rows)

    async def _of_files(self, request: pb.PredictRequest, model: LoadedModel, kind: str) -> list[pb.Prediction]:
        takes = "images" if kind == "images" else "texts"
        if model.preprocessing is None or model.preprocessing.takes != takes:
            raise FailedPrecondition(
                f"model {model.deployment!r} takes no {takes}: its version needs {_FILES[takes]}",
                reason="NO_PREPROCESSING",
            )
        with _refusals_counted(model):
            _check_texts_together(kind, model)
        batches = _batches(model.preprocessing, _items(request, kind), one_by_one=asks_singly(model))
        predictions: list[pb.Prediction] = []
        while True:
            with _refusals_counted(model):
                inputs = await self._aside.run(next, batches, None)
            if inputs is None:
                return predictions
            arrays = await self._run(model, inputs, wanted_outputs(model))
            predictions += _predictions(model, arrays, len(next(iter(inputs.values()))))


@contextlib.contextmanager
def _refusals_counted(model: LoadedModel) -> Iterator[None]:
    """Count a request that is refused before its run: whoever runs it counts the others."""
    started = time.monotonic()
    try:
        yield
    except LeptonError as error:
        model.statistics.failed(error, time.monotonic() - started)
        raise


def _predictions(model: LoadedModel, arrays: list[Array], rows: int) -> list[pb.Prediction]:
    return to_predictions(read_answers(model, arrays, rows))


def _batches(preprocessing: Preprocessing, items: Sequence[Item], *, one_by_one: bool) -> Iterator[dict[str, Array]]:
    """Yield the inputs of as many items as run together; of one each where rows may change each other's answers."""
    if not one_by_one:
        return preprocessing.batches(items)
    return chain.from_iterable(preprocessing.batches(items[place : place + 1]) for place in range(len(items)))


def _items(request: pb.PredictRequest, kind: str) -> Sequence[Item]:
    if kind == "text_pairs":
        return [(pair.first, pair.second) for pair in request.text_pairs]
    return request.texts if kind == "texts" else request.images


def _check_texts_together(kind: str, model: LoadedModel) -> None:
    """Check that a model is asked of as many texts at a time as it reads; of one made elsewhere nobody knows.

    Raises:
        InvalidArgument: it reads one and is sent pairs, or the other way round.
    """
    count = len(model.text_columns)
    if not count or kind == "images" or (kind == "text_pairs") == (count == 2):
        return
    wanted = "two texts together: send text_pairs" if count == 2 else "one text at a time: send texts"
    raise InvalidArgument(
        f"model {model.deployment!r} reads {wanted} ({', '.join(model.text_columns)})",
        reason="WRONG_TEXTS",
        violations=[(kind, "is not what the model reads")],
    )


def _one_input(request: pb.PredictRequest) -> str:
    """Return which of rows, texts, pairs of texts and images a request has.

    Raises:
        InvalidArgument: it has none, or several.
    """
    given = [name for name in _KINDS if getattr(request, name)]
    if len(given) == 1:
        return given[0]
    raise InvalidArgument(
        f"a prediction is for exactly one of {', '.join(_KINDS)}: got {' and '.join(given) or 'none of them'}",
        reason="ONE_INPUT",
        violations=[(name, "stands beside another input") for name in given] or [("rows", "is required")],
    )
