"""The states of deployments: waiting until one serves, and rows of a table."""

import time
from collections.abc import Callable
from numbers import Real

from lepton import errors
from lepton.connection import Connection
from lepton.interrupts import deployment_continues
from lepton.v1 import common_pb2, inference_pb2
from lepton.workers import why_unplaced


def wait_until(
    connection: Connection,
    name: str,
    is_enough: Callable[[inference_pb2.Deployment], bool],
    timeout_seconds: float,
) -> inference_pb2.Deployment:
    """Wait until a deployment is in a state; return it.

    Raises:
        DeadlineExceeded: it was not in time; the message says what it was waiting for.
        FailedPrecondition: the version cannot be served; the message says why.
        InvalidArgument: the timeout is no number of seconds.
        Interrupted: Ctrl-C was pressed; the deployment continues.
    """
    if isinstance(timeout_seconds, bool) or not isinstance(timeout_seconds, Real) or not timeout_seconds >= 0:
        raise errors.InvalidArgument("timeout_seconds takes a number of seconds, 0 or more", reason="BAD_ARGUMENT")
    with deployment_continues(name):
        return _wait_until(connection, name, is_enough, timeout_seconds)


def _wait_until(
    connection: Connection,
    name: str,
    is_enough: Callable[[inference_pb2.Deployment], bool],
    timeout_seconds: float,
) -> inference_pb2.Deployment:
    deadline = time.monotonic() + timeout_seconds
    present = _status(connection, name)
    while not is_enough(present):
        if present.state == inference_pb2.DEPLOYMENT_STATE_FAILED:
            raise errors.FailedPrecondition(f"{name}: {present.message}", reason="DEPLOYMENT_FAILED")
        left = deadline - time.monotonic()
        if left <= 0:
            why = why_unplaced(connection, deployment=name) or present.message or "no replica yet"
            raise errors.DeadlineExceeded(f"{name} was not ready after {timeout_seconds:g} s: {why}")
        present = _next_change(connection, present, left)
    return present


def _status(connection: Connection, name: str) -> inference_pb2.Deployment:
    return connection.inference.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))


def _next_change(connection: Connection, present: inference_pb2.Deployment, seconds: float) -> inference_pb2.Deployment:
    request = inference_pb2.WatchDeploymentRequest(name=present.name, after_sequence=present.sequence)
    try:
        for answer in connection.inference.WatchDeployment(request, timeout=seconds):
            return answer.deployment
    except (errors.DeadlineExceeded, errors.Unavailable):
        pass
    return _status(connection, present.name)


def serves_something(deployment: inference_pb2.Deployment) -> bool:
    """Return whether some version of a deployment serves."""
    return bool(deployment.ready_replicas) or deployment.state == inference_pb2.DEPLOYMENT_STATE_UPDATING


def is_settled(deployment: inference_pb2.Deployment) -> bool:
    """Return whether every worker that has room for a deployment answers with the version that is wanted."""
    if deployment.state == inference_pb2.DEPLOYMENT_STATE_READY:
        return True
    # The others wait for room: what serves now is all that will.
    return bool(deployment.ready_replicas and deployment.waiting_reason)


COLUMNS = ["name", "version", "number", "state", "replicas", "ready_replicas", "providers", "batching", "message"]


def to_row(deployment: inference_pb2.Deployment) -> tuple[object, ...]:
    """Return a deployment's values of COLUMNS."""
    return (
        deployment.name,
        deployment.version,
        deployment.number,
        inference_pb2.DeploymentState.Name(deployment.state).removeprefix("DEPLOYMENT_STATE_"),
        deployment.replicas,
        deployment.ready_replicas,
        ", ".join(sorted(set(deployment.providers.values()))),
        "off" if deployment.batching == common_pb2.BATCHING_OFF else "auto",
        deployment.message,
    )
