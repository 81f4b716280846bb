"""One table, predicted in six ways: tables that look like something else, and each way as a user would go it."""

import csv
import io
import json
import ssl
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lepton
from lepton import errors, open_inference
from lepton.connection import Connection
from lepton.v1 import common_pb2
from services.training.domain.families import fitting
from services.training.domain.families.frame import normalize
from services.training.domain.families.model import Model
from services.training.domain.families.reading_types import types_to_read
from tests.support.platform import Platform

# Text that looks like numbers, dates and truth values, beside text that keeps the column from being one of them.
TEXTS = {
    "code": (["007", "A12", "1.50", "1e5", " 5", "12", ""], ["7", "1.5", "100000.0", "5", "zzz", "+12"]),
    "flag": (["True", "FALSE", "true", "maybe", ""], ["TRUE", "false", "0", "1"]),
    "day": (["2020-01-01", "2020-01-02", "never", ""], ["2020-01-03", "20200101", "2020-01-01 00:00:00"]),
}
LABELS = ["008", "8", "none of these"]
NUMBERS = ["1.50", "2", "-3e2", " 4", "0.25", "", "nan", "5.0"]
COUNTS = ["1", "2", " 3", "7"]
TRUTHS = ["True", "false", "TRUE"]
MOMENTS = ["2021-03-04", "2021-03-04 05:06:07", "2021-03-04T05:06:07.000008", ""]
COLUMNS = (*TEXTS, "size", "count", "is_new", "at", "label", "value")


@dataclass(frozen=True)
class Table:
    """Rows as the texts of a file: by column, one a row."""

    columns: Mapping[str, list[str]]

    @property
    def rows(self) -> int:
        return len(self.columns["code"])

    def to_csv(self) -> str:
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return written.getvalue()

    def to_records(self) -> list[dict[str, object]]:
        """Return the rows as a program has them: typed, and texts as texts."""
        read: dict[str, Callable[[str], object]] = {
            **dict.fromkeys(TEXTS, lambda text: text or None),
            "size": lambda text: None if text in ("", "nan") else float(text),
            "count": int,
            "is_new": lambda text: text.lower() == "true",
            "at": lambda text: datetime.fromisoformat(text) if text else None,
        }
        columns = {name: [convert(text) for text in self.columns[name]] for name, convert in read.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def unknown(self) -> dict[str, int]:
        """Return how many values of each column of texts training did not see."""
        counts = {name: sum(text not in known for text in self.columns[name]) for name, (known, _) in TEXTS.items()}
        return {name: count for name, count in counts.items() if count}


def training_table(rows: int = 240) -> Table:
    """Return rows in which every column tells something of both targets."""
    draw = np.random.default_rng(0)
    columns = {name: list(draw.choice(known, rows)) for name, (known, _) in TEXTS.items()}
    for name, values in (("size", NUMBERS), ("count", COUNTS), ("is_new", TRUTHS), ("at", MOMENTS)):
        columns[name] = list(draw.choice(values, rows))
    places = [TEXTS["code"][0].index(code) for code in columns["code"]]
    # No column tells a target by itself.
    kinds = [
        (place + int(count) + row % 7 // 6) % 3
        for row, (place, count) in enumerate(zip(places, columns["count"], strict=True))
    ]
    columns["label"] = [LABELS[kind] for kind in kinds]
    columns["value"] = [
        f"{5 * place + 8 * TEXTS['flag'][0].index(flag) + 0.5 * int(count):.2f}"
        for place, flag, count in zip(places, columns["flag"], columns["count"], strict=True)
    ]
    return Table(columns)


def later_tables(count: int, seed: int) -> Iterator[Table]:
    """Yield tables of a few rows whose columns hold few different values: often such that a file looks otherwise."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        rows = int(draw.integers(1, 7))
        columns: dict[str, list[str]] = {}
        for name, (known, unknown) in TEXTS.items():
            values = draw.choice([*known, *unknown] if draw.random() < 0.5 else known, 2)
            columns[name] = list(draw.choice(values, rows))
        for name, kinds in (("size", NUMBERS), ("count", [*COUNTS, "007"]), ("is_new", TRUTHS), ("at", MOMENTS)):
            columns[name] = list(draw.choice(draw.choice(kinds, 2), rows))
        columns["label"] = list(draw.choice(draw.choice(LABELS, 2), rows))
        columns["value"] = [f"{number:.1f}" for number in draw.normal(size=rows)]
        yield Table({name: [str(text) for text in columns[name]] for name in COLUMNS})


class SixWays:
    """A model that is served, and the ways to its predictions.

    Args:
        platform: where it is.
        family: of the model.
        target: that it predicts.
        folder: for files.
    """

    def __init__(self, platform: Platform, family: type[Any], target: str, folder: Path, **settings: Any) -> None:
        self.platform = platform
        self.connection: Connection = platform.connect()
        self.target = target
        self.name = f"six-ways-{target}"
        self._folder = folder
        dropped = "value" if target == "label" else "label"
        columns = {name: texts for name, texts in training_table().columns.items() if name != dropped}
        path = folder / f"train-{target}.csv"
        path.write_text(Table(columns).to_csv(), encoding="utf-8")
        # 007 among the counts is a code by default.
        data = lepton.Dataset.import_file(
            path, name=f"{self.name}-train", label=target, types={"count": "int64"}, connection=self.connection
        )
        self.model = family(name=self.name, connection=self.connection, **settings).fit(data)
        self.deployment = lepton.Deploy(self.model).save()
        self.signature: common_pb2.Signature = self.deployment.signature()
        self.deployment.predict_rows([training_table(1).to_records()[0]])
        self._trained = self._load()

    def import_table(self, table: Table, number: int) -> lepton.Dataset:
        path = self._folder / f"{self.target}-{number}.csv"
        path.write_text(table.to_csv(), encoding="utf-8")
        # A dataset of its own: a further version of one would keep the types of the version before.
        return lepton.Dataset.import_file(path, name=f"{self.name}-later-{number}", connection=self.connection)

    def answers(self, table: Table, number: int) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return the predictions of each way, (rows,) texts or numbers."""
        data = self.import_table(table, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.UnknownCategoryWarning)
            scored = self.deployment.score(data, name=f"{self.name}-scored").to_arrow()
            found: dict[str, Any] = {
                "evaluate": self._evaluated(data),
                "score": scored.column(f"{self.target}_predicted").to_pylist(),
                "frame": self.deployment.predict(self._frame(table))[self.target],
                "rows": self.deployment.predict_rows(table.to_records())[self.target],
                "file": self.deployment.predict_file(self._folder / f"{self.target}-{number}.csv")[self.target],
                "tensors": self._by_tensors(table),
                "rest": self._by_rest(table),
            }
        return {way: np.asarray(values) for way, values in found.items()}

    def _frame(self, table: Table) -> pd.DataFrame:
        records = table.to_records()
        columns = {name: pd.Series([record[name] for record in records], dtype=object) for name in records[0]}
        return pd.DataFrame(columns)

    def _load(self) -> Model:
        version = self.model.trained_version()
        return fitting.load({item.name: version.download(item.name) for item in version.message.artifacts})

    def _evaluated(self, data: lepton.Dataset) -> list[object]:
        """Predict as an evaluation does: the model itself, on rows that are read by its types."""
        found = {column.name: column.arrow_type for column in data.message.columns}
        types = types_to_read(found, self._trained.columns, self._trained.target)
        table = normalize(data.to_arrow(types=types))
        values = self._trained.predict(table).values
        classes = self._trained.target.classes
        return [classes[place] for place in values] if classes else list(values)

    def tensors(self, table: Table) -> list[tuple[common_pb2.TensorSpec, "np.ndarray[Any, Any]"]]:
        """Return the inputs as a client without the SDK makes them: by the signature alone."""
        return [(spec, _tensor([record[spec.name] for record in table.to_records()], spec)) for spec in self.inputs]

    @property
    def inputs(self) -> list[common_pb2.TensorSpec]:
        return list(self.signature.inputs)

    def _by_tensors(self, table: Table) -> list[object]:
        channel = self.connection.serving_channel
        found = open_inference.infer(channel, self.name, "", self.tensors(table), 60.0)
        return list(found["prediction"][:, 0].tolist())

    def rest_reply(self, table: Table) -> dict[str, Any]:
        """Return the reply to a request in JSON."""
        inputs = [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(values.shape), "data": values.ravel().tolist()}
            for spec, values in self.tensors(table)
        ]
        port = self.platform.base_port
        token = (self.platform.home / "credentials" / "token").read_text()
        request = urllib.request.Request(
            f"https://127.0.0.1:{port}/v2/models/{self.name}/infer",
            data=json.dumps({"inputs": inputs}).encode(),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        context = ssl.create_default_context(cafile=self.platform.home / "credentials" / "ca.pem")
        with urllib.request.urlopen(request, timeout=60, context=context) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
        return answer

    def _by_rest(self, table: Table) -> list[object]:
        (output,) = [item for item in self.rest_reply(table)["outputs"] if item["name"] == "prediction"]
        return list(output["data"])


def _tensor(values: list[Any], spec: common_pb2.TensorSpec) -> "np.ndarray[Any, Any]":
    if spec.datatype == "BYTES":
        return np.array([value or "" for value in values], dtype=object).reshape(-1, 1)
    if spec.kind == common_pb2.COLUMN_KIND_TEMPORAL:
        start, step = datetime(1970, 1, 1), timedelta(microseconds=1)
        values = [None if value is None else (value - start) // step for value in values]
    kinds = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
    return np.array([np.nan if value is None else value for value in values], kinds[spec.datatype]).reshape(-1, 1)
