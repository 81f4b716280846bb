"""How deployments and jobs use model versions."""

from collections.abc import Collection, Iterator

from lepton.v1 import inference_pb2, training_pb2


def use_of_deployment(deployment: inference_pb2.Deployment, model: str, numbers: Collection[int]) -> str:
    """Return how a deployment uses some versions of a model, for people; empty where it does not."""
    for version, number, use in _versions(deployment):
        if version.partition("@")[0] == model and number in numbers:
            return f"{use} version {number}"
    return ""


def use_of_job(job: training_pb2.Job, model: str, numbers: Collection[int]) -> str:
    """Return how a job uses some versions of a model, for people; empty where it does not."""
    name, _, which = job.spec.base_version.partition("@")
    # A version that is named otherwise than by its number may be any of them.
    if name != model or (which.isdecimal() and int(which) not in numbers):
        return ""
    return "evaluates it" if job.spec.kind == training_pb2.JOB_KIND_EVALUATE else "begins from it"


def _versions(deployment: inference_pb2.Deployment) -> Iterator[tuple[str, int, str]]:
    yield deployment.version, deployment.number, "serves"
    for target in deployment.traffic:
        yield target.version, target.number, "splits traffic with"
    canary = deployment.canary
    if deployment.HasField("canary") and canary.state == inference_pb2.CANARY_STATE_RUNNING:
        yield canary.version, canary.number, "tries as a canary"
    if deployment.HasField("shadow"):
        yield deployment.shadow.version, deployment.shadow.number, "compares with its shadow,"
    if deployment.HasField("standby"):
        yield deployment.standby.version, deployment.standby.number, "keeps for a rollback"
