"""Scores a dataset version into a new one, batch by batch: bounded memory, one model version for all rows."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator

import pyarrow as pa

from lepton.v1 import data_pb2
from lepton.v1 import prediction_pb2 as pb
from servicekit.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from services.inference.adapters.data_client import DataClient
from services.inference.predict.answers import read_answers, wanted_outputs
from services.inference.predict.rows import check_takes_columns
from services.inference.predict.running import Run, run_rows
from services.inference.predict.tables import answer_columns, batch_to_arrays, missing_columns, types_to_read
from services.inference.predict.unknown import UnknownValues
from services.inference.serving.model import Array, LoadedModel

_BATCH_ROWS = 4096
_TELL_SECONDS = 0.25
_RETRY_SECONDS = 5.0
# A scoring has time: where predictions fill the queue it waits, and gives up only when they have for so long.
_PATIENCE_SECONDS = 120.0
_WAIT_SECONDS = 0.5


class Scorer:
    """Scores datasets.

    Args:
        run: runs a model.
        datasets: reads and writes datasets as the caller.
        parallel: datasets scored at a time.
    """

    def __init__(self, run: Run, datasets: DataClient, parallel: int) -> None:
        self._run = run
        self._datasets = datasets
        self._parallel = parallel
        self._scored = 0

    async def score(
        self, request: pb.ScoreDatasetRequest, model: LoadedModel
    ) -> AsyncGenerator[pb.ScoreDatasetResponse, None]:
        """Yield how far it is; the last answer has the new version.

        Args:
            request: what to score.
            model: who answers, for all rows.

        Raises:
            NotFound: there is no such dataset version.
            InvalidArgument: the dataset lacks a column, or holds a value that the model does not take.
            FailedPrecondition: the model is none of columns.
            ResourceExhausted: too many datasets are scored here already.
        """
        check_takes_columns(model)
        source = await self._datasets.version(request.dataset)
        plan = _Plan.make(request, model, source)
        with self._counted(), _held(model):
            async with contextlib.aclosing(self._scored_batches(plan)) as steps:
                async for progress in steps:
                    yield progress

    async def _scored_batches(self, plan: "_Plan") -> AsyncGenerator[pb.ScoreDatasetResponse, None]:
        clock = _Clock(plan)
        writer = None
        async with contextlib.AsyncExitStack() as stack:
            batches = self._datasets.batches(plan.source_ref, plan.read, plan.types)
            await stack.enter_async_context(contextlib.aclosing(batches))
            async for batch in batches:
                parts: list[pa.RecordBatch] = []
                for start in range(0, batch.num_rows, plan.batch_rows):
                    parts.append(await self._predicted(plan, batch.slice(start, plan.batch_rows), clock.done))
                    clock.done += parts[-1].num_rows
                    if clock.is_due():
                        yield clock.progress()
                scored = _joined(parts, plan.model)
                if writer is None:
                    header = plan.header(scored.schema.names)
                    writer = await stack.enter_async_context(self._datasets.writing(header))
                await writer.write(scored)
            if writer is None:
                raise FailedPrecondition(f"{plan.source_ref} has no rows to score", reason="NO_ROWS")
            yield clock.progress()
            dataset = await writer.finish()
        progress = clock.progress()
        progress.dataset.CopyFrom(dataset)
        yield progress

    async def _predicted(self, plan: "_Plan", rows: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        """Return the carried columns of some rows with the predictions behind them."""
        # Beside the event loop, which answers predictions meanwhile.
        inputs = await asyncio.to_thread(batch_to_arrays, rows, plan.model, first_row)
        plan.unknown.add(inputs, rows.num_rows)
        arrays = await self._run_patiently(plan.model, inputs)
        return await asyncio.to_thread(_with_answers, plan, rows, arrays)

    async def _run_patiently(self, model: LoadedModel, inputs: dict[str, Array]) -> list[Array]:
        names = wanted_outputs(model)
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await run_rows(self._run, model, inputs, names)
            except ResourceExhausted as error:
                wait = error.retry_seconds or _WAIT_SECONDS
                if time.monotonic() + wait > until:
                    raise
            await asyncio.sleep(wait)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._scored >= self._parallel:
            raise ResourceExhausted(
                f"{self._scored} datasets are scored here already: try again later",
                reason="TOO_MANY_SCORINGS",
                retry_seconds=_RETRY_SECONDS,
            )
        self._scored += 1
        try:
            yield
        finally:
            self._scored -= 1


class _Plan:
    """What is scored, by whom, and what goes along.

    Args:
        request: what was asked.
        model: who answers, for all rows.
        source: the version that is scored.
        carry: the columns that go along, in the source's order.
    """

    def __init__(
        self, request: pb.ScoreDatasetRequest, model: LoadedModel, source: data_pb2.DatasetVersion, carry: list[str]
    ) -> None:
        self.request = request
        self.model = model
        self.source = source
        self.carry = carry
        self.batch_rows = request.batch_rows or _BATCH_ROWS
        names = [column.name for column in source.columns]
        self.read = [name for name in names if name in model.inputs or name in carry]
        self.source_ref = f"{source.dataset}@{source.number}"
        self.types = types_to_read({column.name: column.arrow_type for column in source.columns}, model)
        self.unknown = UnknownValues(model)

    @classmethod
    def make(cls, request: pb.ScoreDatasetRequest, model: LoadedModel, source: data_pb2.DatasetVersion) -> "_Plan":
        """Check a request against what it names.

        Raises:
            InvalidArgument: the dataset lacks a column that the model needs, or that is to go along.
        """
        names = [column.name for column in source.columns]
        lacking = missing_columns(names, model)
        if lacking:
            raise _lacks(request.dataset, "dataset", lacking, "which the model needs")
        unknown = [name for name in request.columns if name not in names]
        if unknown:
            raise _lacks(request.dataset, "columns", unknown, "which was to be carried along")
        wanted = set(request.columns)
        return cls(request, model, source, [name for name in names if not wanted or name in wanted])

    def header(self, names: list[str]) -> data_pb2.ImportHeader:
        """Return the import's header.

        Args:
            names: all columns of the new version.
        """
        model = self.model
        score = data_pb2.Score(
            model=f"{model.model}@{model.number}",
            digest=model.digest,
            deployment=model.deployment,
            columns=names[len(self.carry) :],
        )
        steps = [data_pb2.Step(score=score)]
        dropped = [column.name for column in self.source.columns if column.name not in self.carry]
        if dropped:
            steps.append(data_pb2.Step(drop_columns=data_pb2.DropColumns(columns=dropped)))
        return data_pb2.ImportHeader(
            dataset=self.request.output,
            format=data_pb2.FILE_FORMAT_PARQUET,
            request_id=f"score-{self.request.request_id}" if self.request.request_id else "",
            label=self.source.label if self.source.label in self.carry else "",
            source=f"{self.source_ref} scored by {model.deployment}",
            recipe=data_pb2.Recipe(steps=steps),
            parent=self.source_ref,
        )


class _Clock:
    """How far a scoring is, and how fast.

    Args:
        plan: what is scored.
        done: rows predicted.
    """

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._started = time.monotonic()
        self._told = float("-inf")
        self.done = 0

    def is_due(self) -> bool:
        """Return whether progress was told long enough ago."""
        return time.monotonic() - self._told >= _TELL_SECONDS

    def progress(self) -> pb.ScoreDatasetResponse:
        """Return how far it is."""
        self._told = time.monotonic()
        speed = self.done / max(self._told - self._started, 1e-6)
        return pb.ScoreDatasetResponse(
            rows_done=self.done,
            rows_total=self._plan.source.rows,
            rows_per_second=speed,
            remaining_seconds=max(self._plan.source.rows - self.done, 0) / speed if speed else 0.0,
            version_number=self._plan.model.number,
            unknown_categories=self._plan.unknown.to_proto(),
        )


@contextlib.contextmanager
def _held(model: LoadedModel) -> Iterator[None]:
    """Keep a model that is being removed until all rows are scored."""
    model.held += 1
    try:
        yield
    finally:
        model.held -= 1


def _with_answers(plan: _Plan, rows: pa.RecordBatch, arrays: list[Array]) -> pa.RecordBatch:
    columns = {name: rows.column(name) for name in plan.carry}
    answers = read_answers(plan.model, arrays, rows.num_rows)
    columns |= answer_columns(answers, plan.model, plan.carry)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _joined(parts: list[pa.RecordBatch], model: LoadedModel) -> pa.RecordBatch:
    """Return one batch of several; the file is written in batches as large as they are read."""
    if any(part.schema != parts[0].schema for part in parts):
        raise FailedPrecondition(
            f"model {model.deployment!r} gives other columns for other rows", reason="OUTPUT_NOT_BY_ROW"
        )
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)


def _lacks(dataset: str, field: str, names: list[str], why: str) -> InvalidArgument:
    return InvalidArgument(
        f"{dataset} has no column {', '.join(names[:20])}, {why}",
        reason="COLUMN_MISSING",
        violations=[(field, f"no column {name!r}") for name in names[:16]],
    )
