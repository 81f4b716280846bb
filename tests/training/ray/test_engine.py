"""The engine port on Ray: several workers learn what one does."""

from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.engine import EmbeddedEngine, Engine
from services.training.domain.families.model import Model, Progress, Run
from tests.training.families.image.test_cnn import digits
from tests.training.families.training import credit
from tests.training.ray.cluster import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

# Nothing drawn at random but the order of rows: else the curves would agree in distribution alone.
CNN: dict[str, object] = {
    **{"epochs": 4, "batch_size": 48, "image_size": 8, "width": 8, "channels": "grey", "dropout": 0.0},
    **{"augmentation": "none", "class_weight": "balanced", "early_stopping": 2, "sync_batchnorm": "on"},
}
MLP: dict[str, object] = {"epochs": 3, "batch_size": 64, "hidden_units": 16, "dropout": 0.3}


@dataclass
class Fitted:
    model: Model
    told: list[Progress] = field(default_factory=list)

    @property
    def curve(self) -> list[dict[str, float]]:
        return [progress.metrics for progress in self.told if progress.metrics]


def _fit(family: str, table: pa.Table, target: str, given: dict[str, object], engine: Engine | None = None) -> Fitted:
    settings, told = resolve_hyperparameters(family, given), list[Progress]()
    schema = fitting.describe(family, table, target, settings)
    model = fitting.fit(
        family, schema, table, Run(settings, 0, told.append, lambda: False, engine=engine or EmbeddedEngine())
    )
    return Fitted(model, told)


def _engine(cluster: RayCluster, workers: int) -> Engine:
    from services.training.adapters.ray.engine import RayEngine

    return RayEngine(cluster.address, workers)


def test_one_worker_on_ray_gives_the_same_files_as_none(cluster: RayCluster) -> None:
    here = _fit("mlp", credit(), "creditability", MLP)
    there = _fit("mlp", credit(), "creditability", MLP, _engine(cluster, 1))
    assert there.curve == here.curve
    assert there.model.files() == here.model.files()


def test_two_workers_that_normalize_rows_of_their_own_give_the_same_files_each_time(cluster: RayCluster) -> None:
    settings = {**CNN, "sync_batchnorm": "off"}
    one, other = (_fit("cnn", digits(333), "digit", settings, _engine(cluster, 2)) for _ in range(2))
    assert one.model.files() == other.model.files()
    assert one.curve[-1]["validation_loss"] < one.curve[0]["validation_loss"]


def test_two_workers_learn_as_one_up_to_rounding(cluster: RayCluster) -> None:
    # With batch normalization and class weights, whose sums are over all workers' rows, and batches of odd sizes.
    table = digits(333)
    here = _fit("cnn", table, "digit", CNN)
    there = _fit("cnn", table, "digit", CNN, _engine(cluster, 2))
    assert len(here.curve) == len(there.curve) == 4
    for one, two in zip(here.curve, there.curve, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert there.curve[-1]["loss"] < 0.7 * there.curve[0]["loss"]
