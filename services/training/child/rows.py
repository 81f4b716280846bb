"""The rows of a job: held whole where they fit into the memory that it declares, else streamed."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import structlog

from lepton.v1 import data_pb2, registry_pb2
from lepton.v1 import training_pb2 as pb
from servicekit import telemetry
from services.training.adapters.data_client import DataClient, least_bytes
from services.training.child.patience import Patience
from services.training.child.remote_rows import RemoteRows
from services.training.child.voice import Voice
from services.training.domain.families import fitting
from services.training.domain.families.bodies import Body
from services.training.domain.families.frame import Column
from services.training.domain.families.metrics import Scores
from services.training.domain.families.model import Model, Run
from services.training.domain.families.reading_types import types_by_datatype, types_to_read
from services.training.domain.families.schema import Schema
from services.training.domain.families.streamed.budget import Budget
from services.training.domain.families.streamed.fit import HELD_OUT_SHARE, Plan, can_stream, check_streams, prepare
from services.training.domain.families.streamed.sample import sample
from services.training.domain.families.target import Target
from services.training.domain.families.trial import scores_of_draws, trial_rows
from services.training.memory import give_back_what_is_freed

_log = structlog.get_logger(__name__)


def held_out_its_own(version: registry_pb2.Version) -> bool:
    """Return whether a model was judged by rows of the dataset that it learned from, which it did not see."""
    return not version.evaluations or version.evaluations[0].dataset == version.lineage.dataset


@dataclass(frozen=True)
class Ready:
    """A fit that can begin.

    Args:
        schema: what it learns from.
        held_out: rows that judge.
        held_out_name: the version that they are of.
        fit: trains.
        train: rows that it learns from; None where they stream.
        more: gives a trial's scores on further draws of its rows, too, after those of the first.
    """

    schema: Schema
    held_out: pa.Table
    held_out_name: str
    fit: Callable[[Run], Model]
    train: pa.Table | None = None
    more: Callable[[Run, Scores], Scores] = lambda _, first: first


class JobRows:
    """Reads what a job learns from and is judged by.

    Args:
        spec: the job's.
        data: the data service.
        patience: with it.
        voice: says what is read.
    """

    def __init__(self, spec: pb.JobSpec, data: DataClient, patience: Patience, voice: Voice) -> None:
        self._spec = spec
        self._data = data
        self._patience = patience
        self._voice = voice
        self._budget = Budget(spec.resources.memory_bytes)

    async def version(self, ref: str) -> data_pb2.DatasetVersion:
        """Return what is known of a version."""
        return await self._patience(lambda: self._data.version(ref))

    async def ready(
        self, dataset: data_pb2.DatasetVersion, settings: Mapping[str, Any], base: Model | None, body: "Body | None"
    ) -> Ready:
        """Return the fit that can begin: on a table in memory, or on one that streams where it is too large.

        Raises:
            InvalidArgument: the rows cannot be learned from, or are too large for a family that holds them whole.
        """
        family, target, handle_unknown = self._spec.family, self._spec.target, self._spec.handle_unknown
        most_bytes = self._budget.held_bytes if can_stream(family, base) else self._budget.memory_bytes
        # Not even begun to be read where it is known to be too large.
        fits = least_bytes(dataset) <= most_bytes
        types = _types(dataset, base.columns, base.target) if base is not None else {}
        table = await self._read(self._spec.dataset, most_bytes, types) if fits else None
        if table is None:
            check_streams(family, self._budget.memory_bytes, base)
            return await self._ready_to_stream(dataset, settings, base, types)
        schema = fitting.describe(family, table, target, settings, handle_unknown, base)
        table = self._readable(schema, table, settings)
        train, held_out, held_out_name = await self._held_out(table, schema)
        held_out = self._readable(schema, held_out, settings)

        def fit(run: Run) -> Model:
            return fitting.fit(family, schema, train, run, base, body)

        def more(run: Run, first: Scores) -> Scores:
            judges_apart = bool(self._spec.evaluation_dataset)
            return scores_of_draws(first, family, schema, table, run, judges_apart=judges_apart)

        return Ready(schema, held_out, held_out_name, fit, train, more)

    async def judging(self, ref: str, columns: Iterable[Column], target: Target) -> pa.Table:
        """Return rows to judge a model by, read by its types: a version's, or a draw of as many as fit.

        Args:
            ref: the version.
            columns: that the model reads.
            target: that it predicts.
        """
        return await self._judging(ref, _types(await self.version(ref), columns, target))

    async def judging_foreign(self, ref: str, datatypes: Mapping[str, str]) -> pa.Table:
        """Return rows to judge a model by that was made elsewhere.

        Args:
            ref: the version.
            datatypes: Open Inference datatype by column, the target's included.
        """
        dataset = await self.version(ref)
        return await self._judging(ref, types_by_datatype(_arrow_types(dataset), datatypes))

    async def _judging(self, ref: str, types: Mapping[str, str]) -> pa.Table:
        rows = await self._read(ref, self._budget.judged_bytes(self._spec.family), types)
        return rows if rows is not None else await self._drawn(ref, self._spec.seed, types=types)

    async def that_judged(
        self, ref: str, seed: int, schema: Schema, settings: Mapping[str, Any], *, were_held_out: bool
    ) -> pa.Table:
        """Return the rows that another model was judged by.

        Args:
            ref: their version.
            seed: of that model.
            schema: of the model that they are to judge now.
            settings: of that one, too.
            were_held_out: from those it was trained on.
        """
        types = _types(await self.version(ref), schema.columns, schema.target)
        rows = await self._read(ref, self._budget.judged_bytes(self._spec.family), types)
        if rows is None:
            # Those that it held out come first, where it streamed them, too.
            return await self._drawn(ref, seed, HELD_OUT_SHARE if were_held_out else 1.0, types)
        rows = fitting.readable_rows(self._spec.family, schema, rows, settings)
        return fitting.hold_out(rows, schema.target, seed)[1] if were_held_out else rows

    async def that_taught(
        self, parent: registry_pb2.Version, schema: Schema, settings: Mapping[str, Any]
    ) -> pa.Table | None:
        """Return the rows that another model learned from; None where they are too many to be held."""
        lineage = parent.lineage
        types = _types(await self.version(lineage.dataset), schema.columns, schema.target)
        rows = await self._read(lineage.dataset, self._budget.judged_bytes(self._spec.family), types)
        if rows is None:
            return None
        rows = fitting.readable_rows(self._spec.family, schema, rows, settings)
        return fitting.hold_out(rows, schema.target, lineage.seed)[0] if held_out_its_own(parent) else rows

    async def _ready_to_stream(
        self,
        dataset: data_pb2.DatasetVersion,
        settings: Mapping[str, Any],
        base: Model | None,
        types: Mapping[str, str],
    ) -> Ready:
        spec, others = self._spec, self._spec.evaluation_dataset
        rows = self._stream(dataset, "streaming: the table is larger than the memory declared", types)
        plan = Plan(
            spec.family,
            spec.target,
            settings,
            spec.seed,
            spec.handle_unknown,
            base,
            is_trial=spec.trial > 0,
            holds_out=not others,
        )
        with telemetry.tracer(__name__).start_as_current_span("training.describe"):
            prepared = await asyncio.to_thread(prepare, plan, rows, self._budget)
        if prepared.held_out is not None:
            return Ready(prepared.schema, prepared.held_out, spec.dataset, prepared.fit)
        schema = prepared.schema
        return Ready(schema, await self.judging(others, schema.columns, schema.target), others, prepared.fit)

    async def _held_out(self, table: pa.Table, schema: Schema) -> tuple[pa.Table, pa.Table, str]:
        if self._spec.trial:
            judges_apart = bool(self._spec.evaluation_dataset)
            train, judged = trial_rows(table, schema.target, self._spec.seed, judges_apart=judges_apart)
            return train, judged, self._spec.dataset
        if others := self._spec.evaluation_dataset:
            return table, await self.judging(others, schema.columns, schema.target), others
        train, held_out = fitting.hold_out(table, schema.target, self._spec.seed)
        return train, held_out, self._spec.dataset

    def _readable(self, schema: Schema, table: pa.Table, settings: Mapping[str, Any]) -> pa.Table:
        return fitting.readable_rows(self._spec.family, schema, table, settings, self._voice.warn)

    async def _read(self, ref: str, most_bytes: int, types: Mapping[str, str] | None = None) -> pa.Table | None:
        """Return a version's rows, some columns as other types; None where they take more than that."""
        with telemetry.tracer(__name__).start_as_current_span("training.read"):
            return await self._patience(lambda: self._data.read(ref, most_bytes, types))

    async def _drawn(self, ref: str, seed: int, share: float = 1.0, types: Mapping[str, str] | None = None) -> pa.Table:
        dataset = await self.version(ref)
        message = f"streaming: {ref} is larger than the memory declared, a draw of its rows judges"
        rows = self._stream(dataset, message, types)
        return await asyncio.to_thread(sample, rows, seed, self._budget.part_bytes, share, self._voice.check_stopped)

    def _stream(
        self, dataset: data_pb2.DatasetVersion, message: str, types: Mapping[str, str] | None = None
    ) -> RemoteRows:
        """Return a version's rows as they come, and say so."""
        give_back_what_is_freed()
        ref, voice = f"{dataset.dataset}@{dataset.number}", self._voice

        def tell() -> None:
            voice.add(f"{rows.passes:.1f} passes read")

        rows = RemoteRows(self._data, ref, dataset.rows, self._patience.seconds, voice.check_stopped, tell, types)
        _log.info("streaming", dataset=ref, rows=dataset.rows)
        voice.say_here(message)
        return rows


def _types(dataset: data_pb2.DatasetVersion, columns: Iterable[Column], target: Target) -> dict[str, str]:
    return types_to_read(_arrow_types(dataset), columns, target)


def _arrow_types(dataset: data_pb2.DatasetVersion) -> dict[str, str]:
    return {column.name: column.arrow_type for column in dataset.columns}
