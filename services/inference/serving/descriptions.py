"""What the protocol says of models: metadata, configuration, statistics, the repository's index. Pure."""

from collections.abc import Iterable

from lepton.v1 import scheduler_pb2
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.model import InputSpec, LoadedModel, OutputSpec
from services.inference.serving.session import PROVIDERS
from services.inference.serving.statistics import Latencies, Statistics
from services.inference.serving.table import Entry

_PLATFORM = "onnxruntime_onnx"
_DATA_TYPES = {"BYTES": pb.TYPE_STRING}
_NANOSECONDS = 1e9


def metadata(name: str, model: LoadedModel, entry: Entry) -> pb.ModelMetadataResponse:
    """Return what a model takes and gives; the batch included."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=name,
        versions=[str(number) for number in sorted(entry.models)],
        platform=_PLATFORM,
        inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=_dims(spec)) for spec in model.inputs.values()],
        outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=_dims(spec)) for spec in model.outputs.values()],
        properties={"digest": model.digest, "provider": model.provider, "batching": model.batching, **_units(model)},
    )


def _units(model: LoadedModel) -> dict[str, str]:
    """Return what datatypes and shapes do not say of tensors."""
    found = {
        f"unit:{spec.name}": "microseconds since 1970-01-01T00:00:00Z"
        for spec in model.inputs.values()
        if spec.is_temporal
    }
    tensors: list[InputSpec | OutputSpec] = [*model.inputs.values(), *model.outputs.values()]
    found |= {f"rank:{spec.name}": "any" for spec in tensors if spec.any_rank}
    return found | {f"optional:{spec.name}": "true" for spec in model.inputs.values() if spec.is_optional}


def _dims(spec: InputSpec | OutputSpec) -> tuple[int, ...]:
    """Return a tensor's shape; [-1] for one of any rank, for which the protocol has no word."""
    return (-1,) if spec.any_rank else spec.shape


def config(name: str, model: LoadedModel) -> pb.ModelConfig:
    """Return a model's configuration in Triton's words: where rows are batched, dims are those of one row."""
    skipped = 1 if model.is_batchable else 0
    found = pb.ModelConfig(
        name=name,
        platform=_PLATFORM,
        backend="onnxruntime",
        max_batch_size=model.max_rows if model.is_batchable else 0,
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )
    kind = pb.ModelInstanceGroup.KIND_CPU if model.provider == PROVIDERS[-1] else pb.ModelInstanceGroup.KIND_GPU
    found.instance_group.add(name=name, count=1, kind=kind)
    if model.is_batchable:
        found.dynamic_batching.preferred_batch_size.append(model.batch_rows)
    for spec in model.inputs.values():
        found.input.add(name=spec.name, data_type=_data_type(spec.datatype), dims=_dims(spec)[skipped:])
    for output in model.outputs.values():
        found.output.add(name=output.name, data_type=_data_type(output.datatype), dims=_dims(output)[skipped:])
    return found


def statistics(name: str, model: LoadedModel) -> pb.ModelStatistics:
    """Return what a model did since it was loaded."""
    seen = model.statistics
    found = pb.ModelStatistics(
        name=name,
        version=model.version,
        last_inference=round(seen.last_time * 1000),
        inference_count=seen.rows,
        execution_count=seen.executions,
        inference_stats=_infer_statistics(seen),
    )
    for rows, size in sorted(seen.sizes.items()):
        found.batch_stats.add(
            batch_size=rows,
            compute_input=_duration(size.count, size.input_seconds),
            compute_infer=_duration(size.count, size.infer_seconds),
            compute_output=_duration(size.count, size.output_seconds),
        )
    return found


def index(name: str, entry: Entry) -> "list[pb.RepositoryIndexResponse.ModelIndex]":
    """Return one row a version."""
    ready = [
        pb.RepositoryIndexResponse.ModelIndex(name=name, version=str(number), state="READY")
        for number in sorted(entry.models)
    ]
    waiting = [
        pb.RepositoryIndexResponse.ModelIndex(
            name=name, version=str(number), state="UNAVAILABLE" if reason else "LOADING", reason=reason
        )
        for number, reason in sorted(entry.waiting.items())
    ]
    leaving = [
        pb.RepositoryIndexResponse.ModelIndex(
            name=name, version=str(number), state="UNLOADING", reason="its last requests end"
        )
        for number in sorted(entry.leaving - set(entry.models) - set(entry.waiting))
    ]
    return ready + waiting + leaving


def elsewhere(replicas: Iterable[scheduler_pb2.Replica]) -> "list[pb.RepositoryIndexResponse.ModelIndex]":
    """Return one row for each version that other workers serve."""
    return [
        pb.RepositoryIndexResponse.ModelIndex(name=replica.deployment, version=str(replica.number), state="READY")
        for replica in replicas
        if replica.state == scheduler_pb2.REPLICA_STATE_READY
    ]


def _infer_statistics(seen: Statistics) -> pb.InferStatistics:
    executed = seen.queue.count
    return pb.InferStatistics(
        success=_of(seen.latency),
        fail=_duration(sum(seen.errors.values()), seen.failed_seconds),
        queue=_of(seen.queue),
        # Triton counts a stage once for each request of its batch.
        compute_input=_duration(executed, seen.preprocess.seconds),
        compute_infer=_duration(executed, seen.compute.seconds),
        compute_output=_duration(executed, seen.postprocess_seconds),
        cache_hit=_duration(seen.cache_hits, seen.cache_hit_seconds),
        cache_miss=_duration(seen.cache_misses, 0.0),
    )


def _of(latencies: Latencies) -> pb.StatisticDuration:
    return _duration(latencies.count, latencies.seconds)


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * _NANOSECONDS))


def _data_type(datatype: str) -> "pb.DataType.ValueType":
    return _DATA_TYPES.get(datatype) or pb.DataType.Value(f"TYPE_{datatype}")
