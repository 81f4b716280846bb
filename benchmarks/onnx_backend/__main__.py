"""`python -m benchmarks.onnx_backend [--match TEXT] [--most N]`: see the package."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from benchmarks.harness import running_platform
from benchmarks.onnx_backend.cases import runnable
from benchmarks.onnx_backend.walk import Outcome, walk

_ROUND = 40
_BASE_PORT = 30_100


def main() -> None:
    """Run the cases and print what became of them; fails where an answer is wrong."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.onnx_backend", description=__doc__)
    arguments.add_argument("--match", default="", help="a regular expression that a case's name must hold")
    arguments.add_argument("--most", type=int, default=0, help="cases to try, evenly over all; 0 for all")
    arguments.add_argument("--json", type=Path, help="where to write each case's outcome")
    asked = arguments.parse_args()
    cases = list(runnable(asked.match, asked.most))
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with running_platform(_BASE_PORT) as connection:
        for start in range(0, len(cases), _ROUND):
            outcomes += walk(cases[start : start + _ROUND], connection)
            print(f"{len(outcomes)} of {len(cases)}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    print(report(outcomes))
    if any(outcome.kind == "wrong" for outcome in outcomes):
        sys.exit("some answers are wrong")


def report(outcomes: Sequence[Outcome]) -> str:
    """Return the table of outcomes, as Markdown."""
    counts = Counter(outcome.kind for outcome in outcomes)
    lines = [
        f"ONNX Runtime {ort.__version__} runs {len(outcomes):,} cases; the platform answers {counts['equal']:,} the "
        f"same, {counts['wrong']} otherwise; {counts['refused']} are refused at registration, {counts['failed']} when "
        f"asked, and {counts['not carried']} have inputs that no request carries.",
        "",
        "| case | what became of it | why |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {outcome.name} | {outcome.kind} | {outcome.why.replace('|', '/')} |"
        for outcome in outcomes
        if outcome.kind != "equal"
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
