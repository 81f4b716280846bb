"""Checks what a job is asked before it is queued, so that what cannot work fails at once and not on a worker."""

import contextlib
import json
from collections.abc import Mapping

from lepton.v1 import common_pb2, data_pb2, registry_pb2
from lepton.v1 import training_pb2 as pb
from servicekit.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from services.training.adapters.data_client import DataClient
from services.training.adapters.registry_client import RegistryClient
from services.training.convert import hyperparameters_from_proto
from services.training.domain.families.catalog import FAMILIES, find_family, resolve_hyperparameters
from services.training.domain.preflight import Learning, check_judging, check_learning
from services.training.domain.problems import Problems
from services.training.domain.search import (
    HIGHER_IS_BETTER,
    LOWER_IS_BETTER,
    PRUNERS,
    SAMPLERS,
    grid,
    read_space,
)

_DEFAULT_MEMORY_BYTES = 1 << 30
_DEFAULT_TRIALS, _PARALLEL_TRIALS = 20, 2
# It waits for its trials most of the time.
_STUDY_CORES, _STUDY_MEMORY_BYTES = 0.1, 256 << 20
# As the domain's targets call it, whose module loads what the service can do without.
_EMBEDDING = "embedding"
_KINDS_WITH_BASE = (pb.JOB_KIND_FINE_TUNE, pb.JOB_KIND_EVALUATE)
_KINDS_WITH_BODY = (pb.JOB_KIND_FIT, pb.JOB_KIND_TUNE)
# Weights, their gradients, the optimizer's two moments, the base, the export, and what is made of these for a moment.
_WEIGHT_COPIES = 12


class SpecCheck:
    """Checks job specs against the data service and the registry, as the caller.

    Args:
        data: for datasets.
        registry: for base versions.
    """

    def __init__(self, data: DataClient, registry: RegistryClient) -> None:
        self._data = data
        self._registry = registry

    async def resolve(self, given: pb.JobSpec) -> pb.JobSpec:
        """Return a spec with its defaults filled in and its references fixed.

        Raises:
            InvalidArgument: it cannot work; the message says why.
            NotFound: a dataset or version does not exist.
        """
        spec = pb.JobSpec()
        spec.CopyFrom(given)
        problems = Problems()
        base = await self._resolve_base(spec) if spec.kind in _KINDS_WITH_BASE else None
        memory_bytes = _DEFAULT_MEMORY_BYTES
        has_body = spec.kind in _KINDS_WITH_BODY and bool(spec.base_version)
        if has_body:
            memory_bytes += _WEIGHT_COPIES * await self._resolve_body(spec)
        version = await self._data.version(spec.dataset)
        spec.target = spec.target or version.label or version.columns[-1].name
        settings: Mapping[str, object] = {}
        if spec.kind != pb.JOB_KIND_EVALUATE:
            settings = _resolve_settings(spec, version.rows, problems, has_body=has_body)
            with problems.collecting("spec.workers"):
                _check_workers(spec, base.signature.task if base else str(settings.get("task", "")))
            spec.model = spec.model or find_family(spec.family).name.replace("_", "-")
        spec.handle_unknown = spec.handle_unknown or "ignore"
        if spec.handle_unknown not in ("ignore", "error"):
            problems.add("spec.handle_unknown", "handle_unknown must be ignore or error", "BAD_HANDLE_UNKNOWN")
        await self._check_tables(spec, version, base, settings, problems)
        problems.refuse()
        # First: a study's are its trials', whose cost they tell.
        spec.resources.cores = spec.resources.cores or 1.0
        spec.resources.memory_bytes = spec.resources.memory_bytes or memory_bytes
        if spec.kind == pb.JOB_KIND_TUNE:
            _resolve_search(spec, hyperparameters_from_proto(given.hyperparameters))
        return spec

    async def _check_tables(
        self,
        spec: pb.JobSpec,
        version: data_pb2.DatasetVersion,
        base: registry_pb2.Version | None,
        settings: Mapping[str, object],
        problems: Problems,
    ) -> None:
        """Record what schemas and profiles say against the job."""
        table = await self._data.facts(version)
        if table.find(spec.target) is None:
            names = ", ".join(column.name for column in table.columns[:50])
            description = f"there is no target column {spec.target!r}: {spec.dataset} has {names}"
            problems.add("spec.target", description, "TARGET_NOT_FOUND")
        elif base is not None:
            check_judging(table, spec.target, _inputs_of(base), "spec.dataset", problems, spec.base_version)
        else:
            learning = Learning(spec.family, spec.target, settings, spec.handle_unknown)
            check_learning(table, learning, problems)
        if spec.evaluation_dataset:
            held_out = await self._data.facts(await self._data.version(spec.evaluation_dataset))
            inputs = [column.name for column in table.columns if column.name != spec.target]
            if base is not None or find_family(spec.family).reads == "series":
                inputs = _inputs_of(base) if base is not None else []
            check_judging(held_out, spec.target, inputs, "spec.evaluation_dataset", problems, "the model")

    async def _resolve_base(self, spec: pb.JobSpec) -> registry_pb2.Version:
        """Fix the version that a job continues from, or scores; return that version."""
        if not spec.base_version:
            raise InvalidArgument("base_version is required: name@number or name@alias", reason="BASE_REQUIRED")
        base = await self._ready(spec.base_version)
        if base.pretrained:
            raise InvalidArgument(
                f"{spec.base_version} is pretrained weights, which predict nothing: fit with it as base_version first",
                reason="BASE_IS_PRETRAINED",
            )
        if base.uploaded and spec.kind == pb.JOB_KIND_FINE_TUNE:
            raise InvalidArgument(
                f"{spec.base_version} was made elsewhere: there is nothing here to train on from",
                reason="BASE_MADE_ELSEWHERE",
            )
        # An alias may move while the job waits: what was meant is what it names now.
        spec.base_version = f"{base.model}@{base.number}"
        spec.family = _agreed("family", spec.family, base.lineage.family, spec.base_version)
        spec.target = _agreed("target", spec.target, base.signature.target, spec.base_version)
        if spec.kind == pb.JOB_KIND_FINE_TUNE:
            spec.model = spec.model or base.model
        return base

    async def _resolve_body(self, spec: pb.JobSpec) -> int:
        """Fix what a fit begins from; return the size of its weights, bytes."""
        base = await self._ready(spec.base_version)
        if base.uploaded and not base.pretrained:
            raise InvalidArgument(
                f"{spec.base_version} was made elsewhere: there is nothing here to train on from",
                reason="BASE_MADE_ELSEWHERE",
            )
        spec.base_version = f"{base.model}@{base.number}"
        spec.family = _agreed("family", spec.family, base.lineage.family, spec.base_version)
        return sum(item.size_bytes for item in base.artifacts if item.name.endswith(".safetensors"))

    async def check_base_stays(self, spec: pb.JobSpec) -> None:
        """Check that the version that a resolved spec begins from is still there.

        Raises:
            NotFound: it is gone.
            FailedPrecondition: it is being deleted.
        """
        if spec.base_version:
            # With the registry away the job is queued all the same: it says at its start what it lacks.
            with contextlib.suppress(Unavailable, DeadlineExceeded):
                await self._ready(spec.base_version)

    async def _ready(self, ref: str) -> registry_pb2.Version:
        base = await self._registry.version(ref)
        if base.deleting:
            raise FailedPrecondition(
                f"{base.model}@{base.number} is being deleted: choose another version", reason="VERSION_BEING_DELETED"
            )
        if base.state != registry_pb2.VERSION_STATE_READY:
            raise InvalidArgument(f"{ref} is not READY: choose another version", reason="BASE_NOT_READY")
        return base


def _resolve_settings(spec: pb.JobSpec, rows: int, problems: Problems, *, has_body: bool) -> Mapping[str, object]:
    """Fill in a job's hyperparameters; return them, those of a job without any where some are wrong."""
    continues = spec.kind == pb.JOB_KIND_FINE_TUNE
    find_family(spec.family)
    with problems.collecting("spec.hyperparameters"):
        given = hyperparameters_from_proto(spec.hyperparameters)
        settings = resolve_hyperparameters(spec.family, given, has_body=has_body, continues=continues, rows=rows)
        if settings.get("trainable") == "lora" and not spec.base_version:
            raise InvalidArgument(
                "trainable='lora' needs weights to begin from: fine-tune, or give a fit a base version",
                reason="BASE_REQUIRED",
            )
        # Completed: what a job was run with stays readable with other defaults later.
        for name, value in settings.items():
            spec.hyperparameters[name] = json.dumps(value)
        return settings
    return resolve_hyperparameters(spec.family, {}, continues=continues)


def _inputs_of(base: registry_pb2.Version) -> list[str]:
    """Return the columns that a version trained here reads; of one made elsewhere none is known for sure."""
    if base.signature.text_columns:
        return list(base.signature.text_columns)
    return [spec.name for spec in base.signature.inputs if spec.kind]


def _check_workers(spec: pb.JobSpec, task: str) -> None:
    if spec.workers <= 1:
        return
    if task == _EMBEDDING:
        raise InvalidArgument(
            "embeddings are trained by one process, for each text is told apart from all others of its batch, and "
            "workers see a part of it: leave workers out",
            reason="ONE_WORKER_ONLY",
        )
    if not find_family(spec.family).is_network:
        networks = ", ".join(family.name for family in FAMILIES.values() if family.is_network)
        raise InvalidArgument(
            f"{spec.family} is trained by one process: leave workers out, or choose one of {networks}",
            reason="ONE_WORKER_ONLY",
        )


def _resolve_search(spec: pb.JobSpec, fixed: dict[str, object]) -> None:
    search = spec.search
    search.sampler = search.sampler or SAMPLERS[0]
    search.pruner = search.pruner or PRUNERS[0]
    for field, value, allowed in (
        ("sampler", search.sampler, SAMPLERS),
        ("pruner", search.pruner, PRUNERS),
        ("metric", search.metric, ("", *LOWER_IS_BETTER, *HIGHER_IS_BETTER)),
    ):
        if value not in allowed:
            listed = ", ".join(filter(None, allowed))
            raise InvalidArgument(f"{field} must be one of {listed}, got {value!r}", reason="BAD_SEARCH")
    has_body = bool(spec.base_version)
    space = read_space(spec.family, hyperparameters_from_proto(search.space), fixed, has_body=has_body)
    combinations = sum(1 for _ in grid(space)) if search.sampler == "grid" else 0
    search.max_trials = search.max_trials or combinations or _DEFAULT_TRIALS
    search.parallel_trials = search.parallel_trials or _PARALLEL_TRIALS
    # Only what is set: each trial is told the rest.
    for name in set(spec.hyperparameters) - set(fixed):
        del spec.hyperparameters[name]
    search.trial_resources.CopyFrom(spec.resources)
    spec.resources.CopyFrom(common_pb2.Resources(cores=_STUDY_CORES, memory_bytes=_STUDY_MEMORY_BYTES))


def _agreed(field: str, given: str, own: str, base: str) -> str:
    """Return what the base version is about; the given text where it says nothing."""
    if given and own and given != own:
        raise InvalidArgument(
            f"{base} has the {field} {own!r}, not {given!r}: leave the {field} out", reason="BASE_MISMATCH"
        )
    return own or given
