"""What is seen of a job's rows and of its model on them: warnings before it learns, the report after."""

from collections.abc import Sequence

import pyarrow as pa
import structlog

from lepton.v1 import registry_pb2
from lepton.v1 import training_pb2 as pb
from servicekit.auth import current_identity
from servicekit.errors import LeptonError
from services.training.adapters.training_client import TrainingClient
from services.training.child.patience import Patience
from services.training.child.voice import Voice
from services.training.domain import cautions, outcome_cautions
from services.training.domain.families import fitting
from services.training.domain.families.catalog import FAMILIES
from services.training.domain.families.metrics import Judgement, Scores, undefined_metrics
from services.training.domain.families.model import Model, Settings, Stopped, TrainedModel
from services.training.domain.families.schema import Schema
from services.training.domain.families.target import Target
from services.training.domain.families.unknown_categories import UnknownCategories
from services.training.domain.report.report import report

_log = structlog.get_logger(__name__)

# A report is not worth waiting for as long as what the job is about.
_PATIENCE_SECONDS = 20.0
_LOOKED_AT_ROWS = 1_000
_MOST_REPORTED = 20


class Seen:
    """Tells what is seen of a job, once each.

    Args:
        training: the training service.
        job: as claimed.
        epoch: of the claim.
        voice: says it.
    """

    def __init__(self, training: TrainingClient, job: pb.Job, epoch: int, voice: Voice) -> None:
        self._training = training
        self._workspace = current_identity().workspace
        self._request = pb.SaveReportRequest(name=job.name, worker=job.worker, epoch=epoch)
        self._warn = voice.warn
        self._patience = Patience(_PATIENCE_SECONDS, voice.check_stopped)

    def look_at_rows(
        self,
        spec: pb.JobSpec,
        schema: Schema,
        rows: tuple[pa.Table | None, pa.Table],
        settings: Settings,
        parent: registry_pb2.Version | None,
    ) -> None:
        """Warn of what looks wrong in the rows to train on, None where they stream, and those to evaluate on."""
        train, held_out = rows
        seen = held_out if train is None else train
        if parent is not None and spec.evaluation_dataset:
            self.look_at_lineage(spec.evaluation_dataset, "", parent)
        try:
            is_table = not (schema.is_single or schema.is_series)
            found = cautions.cautions_of_columns(seen, schema.target) if is_table else []
            found += outcome_cautions.caution_of_task(seen, schema.target, spec.family, settings)
            found += cautions.caution_of_imbalance(seen, schema.target, settings.get("class_weight", "none"))
            if spec.evaluation_dataset == spec.dataset:
                found.append(_scored_on_its_own(spec.dataset, "the model"))
            elif train is not None and not schema.is_series:
                found += cautions.caution_of_shared_rows(train, held_out)
        except Exception as error:
            # A caution must not cost a job.
            _log.warning("rows not looked at", exc_info=error)
            return
        self._warn(*found)

    def look_at_model(self, model: Model, train: pa.Table | None, judgement: Judgement | None) -> None:
        """Warn of a model that predicts the same for all rows.

        Args:
            model: as trained.
            train: rows that it learned from; None where they stream.
            judgement: of the held-out rows; None where there is none.
        """
        try:
            if train is not None and isinstance(model, TrainedModel):
                rows = cautions.drawn(train, _LOOKED_AT_ROWS)
                judgement = fitting.judge(model, rows)[1]
            elif judgement is not None and not outcome_cautions.tells_of_constant(len(judgement.truth)):
                judgement = None
            if judgement is not None:
                self._warn(*outcome_cautions.caution_of_constant(judgement, model.hyperparameters))
        except Exception as error:
            # A caution must not cost a job.
            _log.warning("model not looked at", exc_info=error)

    def look_at_scores(self, scores: Scores, target: Target) -> None:
        """Warn of metrics that the rows do not define."""
        self._warn(*undefined_metrics(scores, target))

    def look_at_unknown(self, unknown: Sequence[UnknownCategories], least_share: float = 0.0) -> None:
        """Warn of columns with categories that the model does not know, where they are so much of the rows."""
        reported = [each for each in unknown if each.unknown_rows >= least_share * each.rows]
        self._warn(*(each.to_text() for each in reported[:_MOST_REPORTED]))
        if len(reported) > _MOST_REPORTED:
            self._warn(f"{len(reported) - _MOST_REPORTED:,} more columns hold unknown categories")

    def look_at_taught(self, parent: str, taught: pa.Table, held_out: pa.Table) -> None:
        """Warn where a fine-tune is evaluated on rows that its parent learned from."""
        try:
            self._warn(*cautions.caution_of_shared_rows(taught, held_out, parent))
        except Exception as error:
            # A caution must not cost a job.
            _log.warning("rows not looked at", exc_info=error)

    def look_at_lineage(self, dataset: str, digest: str, version: registry_pb2.Version) -> None:
        """Warn where a version is scored on the rows that it was trained on, whatever their name."""
        lineage = version.lineage
        if lineage.dataset and (dataset == lineage.dataset or digest == lineage.dataset_digest):
            self._warn(_scored_on_its_own(dataset, f"{version.model}@{version.number}"))

    async def keep_report(
        self, target: Target, judgement: Judgement | None, scores: Scores, table: pa.Table, family: str
    ) -> None:
        """Keep the report of a model on some rows; a warning where that cannot be: the model is worth more."""
        # Neither is a way to slice rows.
        has_slices = family not in FAMILIES or FAMILIES[family].reads not in ("images", "series")
        try:
            request = self._request
            made = report(target, judgement, scores, table, () if has_slices else table.column_names)
            request.content = made.to_json()
            await self._patience(lambda: self._training.save_report(self._workspace, request))
        except Stopped:
            raise
        except LeptonError as error:
            self._warn(f"its report could not be kept: {error.message}")
        except Exception as error:
            _log.error("report not made", exc_info=error)
            self._warn("its report could not be made: the worker's log has why, under this job's name")


def _scored_on_its_own(dataset: str, model: str) -> str:
    return f"{dataset} is the version that {model} was trained on: its scores say nothing of new rows"
