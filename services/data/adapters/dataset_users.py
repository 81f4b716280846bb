"""How jobs and deployments use dataset versions."""

from lepton.v1 import inference_pb2, training_pb2


def use_of_job(job: training_pb2.Job, dataset: str, number: int | None) -> str:
    """Return how a job uses a dataset, for people; empty where it does not.

    Args:
        job: queued or running.
        dataset: its id.
        number: of one version; None for any.
    """
    if _means(job.spec.dataset, dataset, number):
        return "scores it" if job.spec.kind == training_pb2.JOB_KIND_EVALUATE else "trains on it"
    return "is evaluated on it" if _means(job.spec.evaluation_dataset, dataset, number) else ""


def use_of_deployment(deployment: inference_pb2.Deployment, dataset: str, number: int | None) -> str:
    """Return how a deployment uses a dataset, for people; empty where it does not. Arguments are those of a job's."""
    return "judges its execution plans on it" if _means(deployment.tuning.dataset, dataset, number) else ""


def _means(ref: str, dataset: str, number: int | None) -> bool:
    """Return whether a reference means a version, or may: a name alone is the newest one, whichever that is then."""
    name, _, which = ref.partition("@")
    return name == dataset and (number is None or not which or which == str(number))
