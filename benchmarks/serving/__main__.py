"""Composition: questions, Lepton's rows, then the peers', one table."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import CREDIT
from benchmarks.serving import graphs
from benchmarks.serving.house import House, running_house
from benchmarks.serving.load import HOW_TO_GET_IT, has_h2load
from benchmarks.serving.options import MODELS, ROWS, Options, parse_options
from benchmarks.serving.question import Question
from benchmarks.serving.report import show_figures
from benchmarks.serving.rows import Bench
from lepton import open_inference
from lepton.datasets import Dataset
from lepton.deployment import Deploy
from lepton.models import BoostedTrees


def main() -> None:
    """Measure what the command line asks for."""
    options = parse_options()
    # What is started from here starts on the load generator's core; servers are moved to theirs.
    os.sched_setaffinity(0, {options.load_core})
    if not has_h2load():
        print(f"warning: {HOW_TO_GET_IT}", file=sys.stderr)
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lepton-serving-") as folder:
        bench = Bench(options, {})
        _measure(bench, Path(folder))
    order = {row: place for place, row in enumerate(ROWS)}
    show_figures(_title(options), sorted(bench.figures, key=lambda figure: order[figure.row]))


def _measure(bench: Bench, folder: Path) -> None:
    with running_house(bench.options) as house:
        _prepare(bench, house, folder)
        bench.measure_house(house, folder)
        if not house.is_whole():
            raise SystemExit("the inference worker was started anew while it was measured: see its log")
    bench.measure_peers()


def _prepare(bench: Bench, house: House, folder: Path) -> None:
    """Make the models that the rows need and deploy them; one that cannot be made fails its rows alone."""
    makers: dict[str, Callable[[], Question]] = {
        "tiny": lambda: graphs.tiny(folder),
        "credit": lambda: _credit(house, folder),
        "minilm": lambda: graphs.minilm(bench.options.cache),
        "cnn": lambda: graphs.cnn(folder),
    }
    for model, make in makers.items():
        for row in [row for row in bench.options.rows if MODELS[row] == model][:1]:
            with bench.trying(row, f"the model {model}"):
                question = make()
                if model != "credit":
                    house.serve(question)
                bench.questions[model] = question


def _credit(house: House, folder: Path) -> Question:
    """Train the credit model through the platform, deploy it, and return its first row."""
    data = Dataset.import_file(CREDIT, name="credit", label="creditability", connection=house.connection)
    model = BoostedTrees(name="credit", connection=house.connection).fit(data)
    Deploy(model).save().wait()
    version = model.trained_version()
    path = folder / "credit.onnx"
    path.write_bytes(version.download())
    row = data.head(1)
    inputs = {spec.name: open_inference.column_values(row[spec.name], spec) for spec in version.signature.inputs}
    return Question("credit", path, inputs)


def _title(options: Options) -> str:
    connections = options.in_flight // options.streams
    return (
        f"one core serves, another asks; {options.in_flight} in flight = {connections} connections x {options.streams} "
        f"streams (JSON: as many connections); median of {options.runs} runs of {options.seconds:g} s"
    )


if __name__ == "__main__":
    main()
