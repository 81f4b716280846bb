"""From a CSV to an authenticated gRPC prediction: what `make demo` runs, on a platform that it stops again."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

import lepton
from lepton import steps
from lepton.models import Model

_DATA = Path(__file__).with_name("german_credit.csv")
_TARGET = "creditability"
_MODEL = "credit-risk"
_SHOWN_ROWS = 8
_PORTS = range(8000, 9000, 300)
# A pipe says nothing of its width: tables should not be cut for it.
_say = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    """Import, clean, train, evaluate, register, deploy, predict; print what was done."""
    os.environ.setdefault("LEPTON_PROGRESS", "1")
    with tempfile.TemporaryDirectory(prefix="lepton-demo-") as folder:
        os.environ["LEPTON_HOME"] = folder
        with _platform():
            _tell("Import the CSV")
            raw = lepton.Dataset.import_file(_DATA, name="german-credit", label=_TARGET)
            _say.print(f"  {raw.ref}: {raw.message.rows:,} rows x {len(raw.columns)} columns, encrypted at rest")
            _tell("Clean it, and put a fifth of the rows aside")
            train, test = raw.transform(
                steps.drop_missing(), steps.drop_duplicates(), steps.split(0.2, seed=7, stratify=_TARGET)
            )
            _say.print(
                f"  {train.ref}: {train.message.rows} rows to learn from; {test.ref}: {test.message.rows} to judge by"
            )
            _tell("Train, export to ONNX, register")
            model = lepton.LogisticRegression(name=_MODEL, c=0.5).fit(train, evaluation_data=test)
            challenger = lepton.BoostedTrees(name=_MODEL, n_estimators=120).fit(train, evaluation_data=test)
            best = max((model, challenger), key=lambda candidate: candidate.metrics["roc_auc"])
            _show_models([model, challenger], best)
            version = best.trained_version()
            version.promote("champion")
            _tell(f"Deploy {version.ref} as {_MODEL}@champion, and predict through gRPC")
            started = time.perf_counter()
            deployment = lepton.Deploy(version).save(version=f"{_MODEL}@champion")
            truth = test.to_pandas()
            predicted = deployment.predict(truth)
            provider = ", ".join(sorted(set(deployment.status().providers.values())))
            seconds = time.perf_counter() - started
            _say.print(f"  deployed, and {len(predicted)} rows scored by {provider}, in {seconds:.2f} s")
            _show_predictions(truth, predicted)
            _show_next(version.ref)


@contextlib.contextmanager
def _platform() -> Iterator[None]:
    """Run a platform of the demo's own: TLS and tokens on, nothing of it left afterwards."""
    port = next((port for port in _PORTS if all(_is_free(port + offset) for offset in (1, 11, 22, 51))), None)
    if port is None:
        raise SystemExit(f"no free ports among {', '.join(map(str, _PORTS))} and the next 300 of each")
    _tell("Start the platform: nats-server, five services, two workers")
    _lepton("up", "--detach", "--base-port", str(port))
    try:
        yield
    finally:
        _tell("Stop the platform")
        _lepton("down")


def _lepton(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "lepton.cli", *arguments], check=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _tell(text: str) -> None:
    _say.print(f"[bold]{text}[/bold]")


def _show_models(models: list[Model], best: Model) -> None:
    table = Table(box=None, header_style="bold")
    names = ("accuracy", "f1", "roc_auc", "log_loss")
    for name in ("version", "family", *names, "parity", ""):
        table.add_column(name)
    for model in models:
        version = model.trained_version()
        metrics = [f"{model.metrics[name]:.3f}" for name in names]
        parity = f"{version.message.parity.max_difference:.1e}"
        table.add_row(version.ref, model.family, *metrics, parity, "<- champion" if model is best else "")
    _say.print(table)


def _show_predictions(truth: pd.DataFrame, predicted: pd.DataFrame) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("purpose", "amount", "months", "truth", "prediction", "probability of bad"):
        table.add_column(name)
    for index in truth.index[:_SHOWN_ROWS]:
        row = truth.loc[index]
        right = row[_TARGET] == predicted.loc[index, _TARGET]
        colour = "green" if right else "red"
        table.add_row(
            str(row["purpose"]),
            f"{row['credit_amount']:,}",
            str(row["duration_in_month"]),
            str(row[_TARGET]),
            f"[{colour}]{predicted.loc[index, _TARGET]}[/{colour}]",
            f"{predicted.loc[index, 'probability_bad']:.2f}",
        )
    _say.print(table)
    share = (truth[_TARGET] == predicted[_TARGET]).mean()
    _say.print(f"  {share:.1%} of {len(truth)} held-out rows are right; the first {_SHOWN_ROWS} are shown")


def _show_next(ref: str) -> None:
    _say.print(
        "[bold]Where to look next[/bold]\n"
        "  . .venv/bin/activate && lepton up     a platform that stays, on ports 8001 (predictions) and 8011 to 8015\n"
        "  lepton --help                         every command, with examples\n"
        f"  lepton models show {ref:<18} lineage, signature, metrics, parity (on a platform that has it)\n"
        "  README.md                             the SDK in ten lines, a grpcurl call, a client in another language"
    )


if __name__ == "__main__":
    main()
