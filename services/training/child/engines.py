"""Where a job's network is trained."""

from lepton.v1 import training_pb2 as pb
from servicekit.errors import FailedPrecondition
from services.training.domain.families.catalog import find_family
from services.training.domain.families.engine import EmbeddedEngine, Engine
from services.training.settings import WorkerSettings


def engine_of(settings: WorkerSettings, spec: pb.JobSpec) -> Engine:
    """Return where a job's network is trained.

    Raises:
        FailedPrecondition: this worker cannot run it.
    """
    if settings.engine == "embedded" and spec.workers > 1:
        raise FailedPrecondition(
            f"{spec.workers} workers train side by side on Ray alone: start the training workers with "
            "LEPTON_ENGINE=ray and LEPTON_RAY_ADDRESS, or ask for one",
            reason="RAY_ENGINE_REQUIRED",
        )
    is_fit = spec.kind in (pb.JOB_KIND_FIT, pb.JOB_KIND_FINE_TUNE)
    if settings.engine == "embedded" or not is_fit or not find_family(spec.family).is_network:
        return EmbeddedEngine()
    try:
        # Here, for it is optional, and takes a second.
        from services.training.adapters.ray.engine import RayEngine
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"the Ray engine needs {error.name}: pip install 'lepton[ray]' where the training worker runs",
            reason="RAY_NOT_INSTALLED",
        ) from error
    return RayEngine(settings.ray_address, max(1, spec.workers), spec.resources.cores, spec.resources.gpus)
