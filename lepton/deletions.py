"""What a forced deletion breaks."""

from lepton.v1 import data_pb2, registry_pb2

__all__ = ["describe_broken"]

_Response = (
    registry_pb2.DeleteVersionResponse
    | registry_pb2.DeleteModelResponse
    | data_pb2.DeleteDatasetVersionResponse
    | data_pb2.DeleteDatasetResponse
)


def describe_broken(response: _Response) -> tuple[str, ...]:
    """Return what a deletion broke, for people: one text for each user, and one where users could not be looked up."""
    found = tuple(f"{user.kind} {user.name} {user.use}" for user in response.broken)
    return (*found, response.unchecked) if response.unchecked else found
