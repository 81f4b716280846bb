"""Which permission each RPC asks for: from the contract's annotations, and a table for what is not ours."""

from collections.abc import Iterable

from google.protobuf import descriptor_pool

from lepton.v1 import options_pb2

# Health and reflection: open, and too frequent and dull for spans and metrics.
UNGUARDED_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    }
)
# The two questions that load balancers ask need no token either.
OPEN_METHODS = UNGUARDED_METHODS | {
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
}

# The Open Inference Protocol carries no annotations of ours.
OPEN_INFERENCE_PERMISSIONS: dict[str, "options_pb2.Permission.ValueType"] = {
    f"/inference.GRPCInferenceService/{method}": permission
    for method, permission in {
        "ServerMetadata": options_pb2.PERMISSION_READ,
        "ModelReady": options_pb2.PERMISSION_READ,
        "ModelMetadata": options_pb2.PERMISSION_READ,
        "ModelConfig": options_pb2.PERMISSION_READ,
        "ModelStatistics": options_pb2.PERMISSION_READ,
        "ModelInfer": options_pb2.PERMISSION_PREDICT,
        "ModelStreamInfer": options_pb2.PERMISSION_PREDICT,
        "RepositoryIndex": options_pb2.PERMISSION_READ,
        "RepositoryModelLoad": options_pb2.PERMISSION_DEPLOY,
        "RepositoryModelUnload": options_pb2.PERMISSION_DEPLOY,
    }.items()
}


def method_permissions(service_names: Iterable[str]) -> dict[str, "options_pb2.Permission.ValueType"]:
    """Return the permission of each method of some services, by path; UNSPECIFIED where none is declared.

    Args:
        service_names: full names, such as lepton.v1.DataService.
    """
    pool = descriptor_pool.Default()
    declared = {
        f"/{name}/{method.name}": method.GetOptions().Extensions[options_pb2.permission]
        for name in service_names
        for method in pool.FindServiceByName(name).methods
    }
    return declared | OPEN_INFERENCE_PERMISSIONS
