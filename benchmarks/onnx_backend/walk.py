"""Takes cases through a platform: upload, deploy, ask, delete."""

import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.onnx_backend.cases import Array, Case, difference, flattened
from lepton import errors, names, open_inference
from lepton.connection import Connection
from lepton.v1 import common_pb2, inference_pb2
from lepton.versions import ModelVersion

_DEPLOY_SECONDS = 120.0
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Args:
        name: of the case.
        kind: equal, refused, not carried, failed or wrong.
        why: the reason and message of the refusal, or the difference.
        warnings: of the version.
        left_out: outputs that the platform does not serve.
    """

    name: str
    kind: str
    why: str = ""
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def walk(cases: Sequence[Case], connection: Connection, *, parallel: int = 2) -> list[Outcome]:
    """Take some cases through the platform together; return what became of each, in order."""
    with ThreadPoolExecutor(parallel) as pool:
        versions = list(pool.map(lambda case: _upload(case, connection), cases))
    served = [(case, found) for case, found in zip(cases, versions, strict=True) if isinstance(found, ModelVersion)]
    for _, version in served:
        _deploy(version, connection)
    states = _await([version.message.model for _, version in served], connection)
    outcomes = {case.name: found for case, found in zip(cases, versions, strict=True) if isinstance(found, Outcome)}
    for case, version in served:
        state = states[version.message.model]
        outcomes[case.name] = Outcome(case.name, "failed", state) if state else _ask(case, version, connection)
    for _, version in served:
        name = version.message.model
        connection.inference.DeleteDeployment(
            inference_pb2.DeleteDeploymentRequest(name=name, request_id=names.request_id())
        )
    return [outcomes[case.name] for case in cases]


def _upload(case: Case, connection: Connection) -> ModelVersion | Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ModelVersion.upload(case.model_id, case.model, connection=connection)
    except errors.LeptonError as error:
        return Outcome(case.name, "refused", f"{error.reason}: {error.message}")


def _deploy(version: ModelVersion, connection: Connection) -> None:
    wanted = inference_pb2.Deployment(
        name=version.message.model,
        version=version.ref,
        # So little that all of a round have room.
        resources=common_pb2.Resources(cores=0.001, memory_bytes=1 << 20),
        tuning=inference_pb2.Tuning(mode=inference_pb2.TUNING_MODE_OFF),
    )
    request = inference_pb2.CreateDeploymentRequest(deployment=wanted, request_id=names.request_id())
    connection.inference.CreateDeployment(request)


def _await(deployments: Sequence[str], connection: Connection) -> dict[str, str]:
    """Return why each deployment does not serve; empty where it does."""
    found: dict[str, str] = {}
    deadline = time.monotonic() + _DEPLOY_SECONDS
    while len(found) < len(deployments):
        for name in deployments:
            if name in found:
                continue
            state = connection.inference.GetDeployment(inference_pb2.GetDeploymentRequest(name=name))
            if state.state == inference_pb2.DEPLOYMENT_STATE_READY:
                found[name] = ""
            elif state.state == inference_pb2.DEPLOYMENT_STATE_FAILED or time.monotonic() > deadline:
                found[name] = f"not served: {state.message}"
        time.sleep(0.1)
    return found


def _ask(case: Case, version: ModelVersion, connection: Connection) -> Outcome:
    signature = version.signature
    warned = tuple(version.warnings)
    left_out = tuple(name for name in case.outputs if name not in {spec.name for spec in signature.outputs})
    for place, request in enumerate(case.requests):
        # Twice: the first request of a form takes another path than those that follow.
        try:
            values = flattened(request)
        except ValueError:
            why = "the rows of its items differ in shape: there is no tensor of them"
            return Outcome(case.name, "not carried", why, warned, left_out)
        for _ in range(2):
            inputs = [(spec, _as_sent(values[spec.name], spec.datatype)) for spec in signature.inputs]
            try:
                found = _infer(connection, version.message.model, inputs)
            except errors.LeptonError as error:
                return Outcome(case.name, "failed", f"{error.reason}: {error.message}", warned, left_out)
            except ValueError as error:
                return Outcome(case.name, "wrong", f"a reply that the SDK cannot read: {error}", warned, left_out)
            if set(found) != {spec.name for spec in signature.outputs}:
                return Outcome(case.name, "wrong", f"outputs {sorted(found)}", warned, left_out)
            if why := difference(case, place, found):
                return Outcome(case.name, "wrong", why, warned, left_out)
    return Outcome(case.name, "equal", "", warned, left_out)


def _as_sent(value: Any, datatype: str) -> Array:
    array = np.asarray(value)
    return array.astype(object) if datatype == "BYTES" else array


def _infer(
    connection: Connection, name: str, inputs: Sequence[tuple[common_pb2.TensorSpec, Array]]
) -> dict[str, Array]:
    # A deployment may be READY before each worker of the port has it: that is another matter.
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            return open_inference.infer(connection.serving_channel, name, "", inputs, _ANSWER_SECONDS)
        except (errors.NotFound, errors.Unavailable):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
