"""The prediction service's RPCs: from proto, call, to proto."""

import contextlib
import uuid
from collections.abc import AsyncIterator

from lepton.v1 import prediction_pb2 as pb
from lepton.v1 import prediction_pb2_grpc
from servicekit.auth import current_identity
from servicekit.errors import InvalidArgument, Unimplemented
from servicekit.rpc import Context
from services.inference.predict.answers import read_answers, to_predictions, wanted_outputs
from services.inference.predict.rows import rows_to_arrays
from services.inference.predict.running import Run
from services.inference.predict.scoring import Scorer
from services.inference.serving.table import ServingTable


class PredictionServicer(prediction_pb2_grpc.PredictionServiceServicer):
    """Serves lepton.v1.PredictionService from a worker's table.

    Args:
        table: who is served.
        run: runs a model, with whatever batches, counts and limits runs.
        scorer: scores datasets.
    """

    def __init__(self, table: ServingTable, run: Run, scorer: Scorer) -> None:
        self._table = table
        self._run = run
        self._scorer = scorer

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Answer for some rows, texts or images."""
        _check_one_input(request)
        model = self._table.find(current_identity().workspace, request.deployment, request.version)
        inputs = rows_to_arrays(request.rows, model)
        arrays = await self._run(model, inputs, wanted_outputs(model))
        prediction_id = uuid.uuid4().hex
        context.set_trailing_metadata((("lepton-prediction-id", prediction_id), ("lepton-provider", model.provider)))
        return pb.PredictResponse(
            predictions=to_predictions(read_answers(model, arrays, len(request.rows))),
            version_number=model.number,
            prediction_id=prediction_id,
        )

    async def ScoreDataset(
        self, request: pb.ScoreDatasetRequest, context: Context
    ) -> AsyncIterator[pb.ScoreDatasetResponse]:
        """Score a dataset version into a new one."""
        # Closed with this one, so that a caller who goes stops reading and writing at once.
        async with contextlib.aclosing(self._scorer.score(request)) as steps:
            async for progress in steps:
                yield progress


def _check_one_input(request: pb.PredictRequest) -> None:
    given = [name for name in ("rows", "texts", "images") if getattr(request, name)]
    if len(given) != 1:
        what = "none of them" if not given else " and ".join(given)
        raise InvalidArgument(
            f"a prediction is for exactly one of rows, texts and images: got {what}",
            reason="ONE_INPUT",
            violations=[(name, "stands beside another input") for name in given] or [("rows", "is required")],
        )
    if given != ["rows"]:
        raise Unimplemented(f"{given[0]} are not read yet: send tensors by the Open Inference Protocol")
