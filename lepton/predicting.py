"""Predictions by a deployment: of frames, files, records, texts and images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lepton import open_inference, progress, served_frames, tracing, typed_files, typed_rows, unknown_categories
from lepton.arguments import as_list, to_name
from lepton.connection import Connection
from lepton.deployment_states import serves_something, wait_until
from lepton.images import read_image
from lepton.v1 import common_pb2, inference_pb2, prediction_pb2
from lepton.versions import ModelVersion

READY_SECONDS = 60.0
# Each costs as much as thousands of rows.
_BATCH_SINGLES = 256
# The task of a model whose answers are vectors.
_EMBEDDING = "embedding"


class Predicting:
    """What predicts by a deployment.

    Args:
        name: the deployment's id.
        connection: the platform.
    """

    name: str
    connection: Connection

    def predict(self, data: pd.DataFrame, *, version: str = "", timeout_seconds: float = READY_SECONDS) -> pd.DataFrame:
        """Return predictions for some rows: first the target's column, then a probability a class, or an interval.

        Columns are picked by the model's signature, so the label and others may stay in. A model that reads texts
        or images takes the columns of texts that it was trained on, or else the one column of texts, or of images in
        base64, besides its target. Of an embedding each number is a column. Series are lists of numbers, and so is what
        a forecast says: the target, `lower` and `upper`.

        Args:
            data: the rows.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for each request.

        Raises:
            MissingColumn: the data lacks a column that the model needs; it is a KeyError, too.
            WrongType: the data is no DataFrame.
            InvalidArgument: a column is there twice, or the model refuses a value: a fraction for a whole number, a
                text for a truth value, an infinity. The message names row and column.
            DeadlineExceeded: the deployment was not ready in time.

        Warns (`errors.UnknownCategoryWarning`) where a good share of a column are categories that the model does not
        know.
        """
        with tracing.span("lepton.predict"):
            serving = self._until_serving(timeout_seconds)
            signature = self._serving_version(serving).signature
            data = served_frames.with_names(data, signature)
            version = to_name(version, "version")
            single = served_frames.single_input(signature.inputs[0], data)
            if single is not None:
                columns = served_frames.text_columns(signature, single, data)
                return self._predict_columns(data, columns, single, version, timeout_seconds)
            served_frames.check_columns(data, signature, serving.version)
            parts: list[dict[str, np.ndarray[Any, Any]]] = []
            unknown = unknown_categories.UnknownValues(signature)
            with progress.bar(f"predicting with {self.name}", len(data)) as advance:
                done = 0
                for batch in served_frames.batches(data, signature):
                    inputs = [
                        (spec, open_inference.column_values(batch[spec.name], spec, done)) for spec in signature.inputs
                    ]
                    unknown.add(inputs, len(batch))
                    channel = self.connection.serving_channel
                    parts.append(open_inference.infer(channel, self.name, version, inputs, timeout_seconds))
                    advance(len(batch))
                    done += len(batch)
        unknown_categories.warn_of(unknown.found())
        return served_frames.to_frame(parts, signature, data.index)

    def predict_file(
        self, path: Path | str, *, version: str = "", timeout_seconds: float = READY_SECONDS
    ) -> pd.DataFrame:
        """Return predictions for the rows of a file, read by the types of the model: texts stay as the file has them.

        Args:
            path: .csv, .tsv, .txt, .parquet or .jsonl, texts also with .gz, .bz2 or .xz; in UTF-8, dates in ISO 8601.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for each request.

        Raises:
            MissingColumn: the file lacks a column that the model needs.
            InvalidArgument: a value is not what its column holds; the message names row and column.
            DeadlineExceeded: the deployment was not ready in time.
        """
        rows = typed_files.read_rows(Path(path)).typed(self.signature(timeout_seconds))
        return self.predict(rows, version=version, timeout_seconds=timeout_seconds)

    def _predict_columns(
        self, data: pd.DataFrame, columns: list[str], kind: str, version: str, timeout_seconds: float
    ) -> pd.DataFrame:
        parts = []
        with progress.bar(f"predicting with {self.name}", len(data)) as advance:
            for start in range(0, max(1, len(data)), _BATCH_SINGLES):
                batch = data[columns].iloc[start : start + _BATCH_SINGLES]
                values = list(batch[columns[0]])
                if len(columns) == 2:
                    pairs = list(zip(values, batch[columns[1]], strict=True))
                    parts.append(self.predict_texts(pairs, version=version, timeout_seconds=timeout_seconds))
                elif kind == "texts":
                    parts.append(self.predict_texts(values, version=version, timeout_seconds=timeout_seconds))
                else:
                    files = served_frames.decoded_images(values, columns[0], start)
                    parts.append(self.predict_images(files, version=version, timeout_seconds=timeout_seconds))
                advance(len(values))
        return pd.concat(parts).set_axis(data.index)

    def predict_rows(
        self,
        rows: Iterable[Mapping[Any, object]] | Mapping[Any, object] | pd.DataFrame,
        *,
        version: str = "",
        timeout_seconds: float = READY_SECONDS,
    ) -> pd.DataFrame:
        """Return predictions for a few records, in their order, with the columns of `predict`; class labels are texts.

        Args:
            rows: records, one record or a DataFrame; each a value by column, None is missing. Columns that the
                model does not ask for are ignored.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for the answer.

        Raises:
            InvalidArgument: a row lacks a column or has a wrong value; the violations name row and column.
            DeadlineExceeded: the deployment was not ready in time.
        """
        typed = [typed_rows.to_row(row) for row in typed_rows.to_records(rows)]
        return self._typed(prediction_pb2.PredictRequest(rows=typed), version, timeout_seconds)

    def predict_texts(
        self,
        texts: str | Iterable[str] | Iterable[tuple[str, str]],
        *,
        version: str = "",
        timeout_seconds: float = READY_SECONDS,
    ) -> pd.DataFrame:
        """Return predictions for some texts, or pairs of them, by a version with a tokenizer.json.

        Args:
            texts: at most 1,000, or one; pairs for a model that reads two texts together.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for the answer.

        Raises:
            FailedPrecondition: the version has none.
            InvalidArgument: a text is too long, or the model reads pairs and these are none, or the other way round.
        """
        return self._typed(typed_rows.to_texts_request(texts), version, timeout_seconds)

    def embed(
        self, texts: str | Iterable[str], *, version: str = "", timeout_seconds: float = READY_SECONDS
    ) -> "np.ndarray[Any, Any]":
        """Return (rows, size) vectors of some texts, by a model of embeddings: 32-bit floats, each of length 1.

        Args:
            texts: one, or any number of them.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for each answer.

        Raises:
            FailedPrecondition: the model gives labels, no vectors, or reads no texts.
            InvalidArgument: a text is too long.
        """
        given, found = as_list(texts, "texts"), list[prediction_pb2.Prediction]()
        with progress.bar(f"embedding with {self.name}", len(given)) as advance:
            for start in range(0, len(given), _BATCH_SINGLES):
                request = typed_rows.to_texts_request(given[start : start + _BATCH_SINGLES])
                answers, _ = self._ask(request, version, timeout_seconds)
                found.extend(answers)
                advance(len(answers))
        return typed_rows.to_vectors(found, self.name)

    def predict_images(
        self,
        images: bytes | str | Path | Iterable[bytes | str | Path],
        *,
        version: str = "",
        timeout_seconds: float = READY_SECONDS,
    ) -> pd.DataFrame:
        """Return predictions for some PNG or JPEG images, files or their bytes, by a version with an image.json.

        Raises:
            FailedPrecondition: the version has none.
            InvalidArgument: one is no image, or too large.
        """
        contents = [read_image(image) for image in as_list(images, "images")]
        return self._typed(prediction_pb2.PredictRequest(images=contents), version, timeout_seconds)

    def signature(self, timeout_seconds: float = READY_SECONDS) -> common_pb2.Signature:
        """Return what the version that serves takes and gives.

        Args:
            timeout_seconds: how long to wait for the deployment to be ready.

        Raises:
            DeadlineExceeded: the deployment was not ready in time.
        """
        return self._serving_version(self._until_serving(timeout_seconds)).signature

    def _typed(self, request: prediction_pb2.PredictRequest, version: str, timeout_seconds: float) -> pd.DataFrame:
        predictions, signature = self._ask(request, version, timeout_seconds)
        name = signature.task if signature.task == _EMBEDDING else signature.target
        return typed_rows.to_frame(predictions, name or "prediction", list(signature.classes))

    def _ask(
        self, request: prediction_pb2.PredictRequest, version: str, timeout_seconds: float
    ) -> tuple[Sequence[prediction_pb2.Prediction], common_pb2.Signature]:
        request.deployment, request.version = self.name, to_name(version, "version")
        with tracing.span("lepton.predict"):
            signature = self._serving_version(self._until_serving(timeout_seconds)).signature
            answer = self.connection.prediction.Predict(request, timeout=timeout_seconds)
        unknown_categories.warn_of(answer.unknown_categories, stacklevel=4)
        return answer.predictions, signature

    def _until_serving(self, timeout_seconds: float) -> inference_pb2.Deployment:
        """Wait until some version of the deployment serves; return the deployment. Errors are those of `wait`."""
        return wait_until(self.connection, self.name, serves_something, timeout_seconds)

    def _serving_version(self, deployment: inference_pb2.Deployment) -> ModelVersion:
        model = deployment.version.partition("@")[0]
        return ModelVersion.get(f"{model}@{deployment.number}", connection=self.connection)
