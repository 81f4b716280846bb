"""What each row measures, and what it is held to."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import graphs
from benchmarks.serving.chosen import serve_chosen
from benchmarks.serving.client import run_client
from benchmarks.serving.endpoint import Endpoint
from benchmarks.serving.environments import ROOT, EnvironmentFailed
from benchmarks.serving.house import NO_PLAINTEXT, House
from benchmarks.serving.ideal import ideal_p99
from benchmarks.serving.load import HOW_TO_GET_IT, RunFailed, has_h2load, measure
from benchmarks.serving.neighbours import LABELS, PeerFailed, running_peer
from benchmarks.serving.options import MODELS, Options
from benchmarks.serving.question import Question
from benchmarks.serving.report import Figure
from benchmarks.serving.swapping import swap_under_load
from lepton.deployment import Deploy
from lepton.errors import LeptonError

# Requests a second, plaintext; the plain plans are held to a share of what the bare session reaches.
_TARGETS = {"tiny": 15_000.0, "credit": 6_000.0}
_SHARES_OF_BARE = {"minilm": 0.95, "cnn": 0.80}
_CHOSEN_TARGETS = {"minilm": 330.0, "cnn": 500.0}
_TINY_P99_MS = 5.0
_SINGLE_P50_MS = 0.25
_TAIL_RATIO = 2.0
_TAIL_LOAD = 0.7
_ARRIVALS = {"even": "evenly spaced", "random": "at random"}
_SWAP_LOAD = 0.8
_GROWTH_PERCENT = 2.0
# What TLS may take.
_TLS_SHARE = 0.88
_QUOTED = {"tiny": 20_700.0, "minilm": 135.0, "cnn": 312.0}
_QUOTED_SINGLE_MS = 0.17
_QUOTED_NOTE = "measured elsewhere on such a machine; in no package"
_CHOSEN = "Lepton, chosen plan"
_THROUGHPUT_ROWS = ("tiny", "credit", "minilm", "cnn")
_BARE_SHARE_OF_SECONDS = 0.5

_FAILURES = (RunFailed, EnvironmentFailed, PeerFailed, LeptonError, subprocess.SubprocessError)


@dataclass
class Bench:
    """Measures and collects figures.

    Args:
        options: what was asked for.
        questions: by row.
        figures: found so far.
        rates: Lepton's requests a second, by row and TLS.
        bare: the bare session's rows a second by batch size, by row.
    """

    options: Options
    questions: dict[str, Question]
    figures: list[Figure] = field(default_factory=list)
    rates: dict[tuple[str, str], float] = field(default_factory=dict)
    bare: dict[str, dict[int, float]] = field(default_factory=dict)

    def wants(self, row: str) -> bool:
        """Return whether a row was asked for and its model could be made."""
        return row in self.options.rows and MODELS[row] in self.questions

    @contextlib.contextmanager
    def trying(self, row: str, server: str, what: str = "") -> Iterator[None]:
        """Let a figure fail alone; the report says why."""
        print(f"{row}: {server} ...", file=sys.stderr, flush=True)
        try:
            yield
        except _FAILURES as error:
            self.figures.append(Figure(row, server, what, None, note=f"failed: {_reason(error)}"))

    def _measure_bare(self, row: str, folder: Path) -> None:
        """Measure ONNX Runtime alone, at its best batch."""
        with self.trying(row, "bare ONNX Runtime"):
            found = self.bare[row] = run_bare(self.questions[row], self.options, folder)
            batch = max(found, key=lambda size: found[size])
            note = f"session.run in a loop; best at batch {batch}, {found[1]:,.0f} at batch 1"
            self.figures.append(Figure(row, "bare ONNX Runtime", "rows", found[batch], "rows/s", note=note))

    def measure_house(self, house: House, folder: Path) -> None:
        """Measure every row of Lepton's; ONNX Runtime alone just before it, for a machine's pace drifts."""
        for row in filter(self.wants, _THROUGHPUT_ROWS):
            self._measure_bare(row, folder)
            for tls in self.options.tls:
                self._throughput(house, row, tls)
            if row in _CHOSEN_TARGETS:
                self._chosen(house, row)
        if self.wants("tail") and "minilm" not in self.bare:
            self._measure_bare("minilm", folder)
        for row, act in (("single", self._single), ("tail", self._tail), ("swap", self._swap)):
            for tls in self.options.tls if self.wants(row) else ():
                act(house, tls)

    def _throughput(self, house: House, row: str, tls: str) -> None:
        with self.trying(row, _lepton(tls)):
            endpoint = self._endpoint(house, row, row, tls)
            if endpoint is None:
                return
            run = measure(endpoint, self.options, self.options.in_flight)
            self.rates[row, tls] = run.rate
            target, held = self._target(row, tls)
            note = "; ".join((*run.notes, *held))
            self.figures.append(
                Figure(row, _lepton(tls), self._loop(), run.rate, "req/s", run.p50, run.p99, target, note=note)
            )
            if row == "tiny":
                self.figures.append(Figure(row, _lepton(tls), "p99", run.p99, "ms", target=_TINY_P99_MS, at_most=True))

    def _target(self, row: str, tls: str) -> tuple[float | None, tuple[str, ...]]:
        """Return what a rate is held to, and how to say so."""
        if tls == "on" and (plain := self.rates.get((row, "off"))):
            return _TLS_SHARE * plain, (f"held to {_TLS_SHARE:g} of plaintext",)
        if row in _TARGETS:
            return _TARGETS[row], ()
        if bare := self.bare.get(row):
            return _SHARES_OF_BARE[row] * max(bare.values()), (f"held to {_SHARES_OF_BARE[row]:g} of bare",)
        return None, ()

    def _chosen(self, house: House, row: str) -> None:
        with self.trying(row, _CHOSEN):
            question, plan = serve_chosen(house, self.questions[row])
            for tls in self.options.tls:
                if endpoint := house.endpoint(question, tls):
                    run = measure(endpoint, self.options, self.options.in_flight)
                    server = f"{_CHOSEN} (TLS {tls})"
                    self.figures.append(
                        Figure(
                            *(row, server, self._loop(), run.rate, "req/s", run.p50, run.p99),
                            target=_CHOSEN_TARGETS[row],
                            note="; ".join((plan, *run.notes)),
                        )
                    )
            Deploy(question.model, connection=house.connection).delete()

    def _single(self, house: House, tls: str) -> None:
        with self.trying("single", _lepton(tls)):
            if endpoint := self._endpoint(house, "single", "tiny", tls):
                self.figures.append(_alone(_lepton(tls), endpoint, self.options, target=_SINGLE_P50_MS))

    def _tail(self, house: House, tls: str) -> None:
        with self.trying("tail", _lepton(tls)):
            endpoint = self._endpoint(house, "tail", "minilm", tls)
            if endpoint is None:
                return
            service = measure(endpoint, self.options, 1).p50
            rate = _TAIL_LOAD * self._capacity(endpoint, "minilm", tls)
            for mode in ("even", "random"):
                found = run_client(endpoint, self.options.load_core, mode, rate, self.options.tail_seconds)
                if found.failed:
                    raise RunFailed(f"{found.failed} of {found.asked} failed: {found.problem}")
                ideal = ideal_p99(self.bare["minilm"], rate, at_random=mode == "random")
                note = (
                    f"service {service:.2f} ms; {rate:.0f} arrivals/s, sent late by {found.late:.2f} ms (p99); "
                    f"bare runs behind an ideal queue: {(ideal - service) / service:.2f}x"
                )
                what = f"added p99 / service time, arrivals {_ARRIVALS[mode]}"
                added = (found.p99 - service) / service
                self.figures.append(
                    Figure(
                        *("tail", _lepton(tls), what, added, "x", found.p50, found.p99, _TAIL_RATIO),
                        at_most=True,
                        note=note,
                    )
                )

    def _swap(self, house: House, tls: str) -> None:
        with self.trying("swap", _lepton(tls)):
            endpoint = self._endpoint(house, "swap", "tiny", tls)
            if endpoint is None:
                return
            if not has_h2load():
                raise RunFailed(HOW_TO_GET_IT)
            other = graphs.tiny(self.questions["tiny"].onnx.parent, seed=1)
            endpoint.answers = (*endpoint.answers, other.expected())
            capacity = self._capacity(endpoint, "tiny", tls)
            first, second = house.register(self.questions["tiny"]), house.register(other)
            seen = swap_under_load(house, endpoint, (first.ref, second.ref), _SWAP_LOAD * capacity)
            before, after = (size / (1 << 20) for size in seen.memory_bytes)
            note = f"{seen.swaps} swaps, {seen.versions_seen} versions answered, {seen.rate:,.0f} req/s; {seen.problem}"
            self.figures += [
                Figure("swap", _lepton(tls), "failed requests", seen.failed, "", target=0, at_most=True, note=note),
                Figure(
                    *("swap", _lepton(tls), "growth of memory (PSS)", seen.growth_percent, "%"),
                    target=_GROWTH_PERCENT,
                    at_most=True,
                    note=f"{before:.1f} MiB, then {after:.1f} MiB; {self.options.swap_seconds:g} s",
                ),
            ]

    def _capacity(self, endpoint: Endpoint, row: str, tls: str) -> float:
        """Return the most requests a second, measured now if the row was not asked for."""
        if (row, tls) not in self.rates:
            self.rates[row, tls] = measure(endpoint, self.options, self.options.in_flight).rate
        return self.rates[row, tls]

    def _endpoint(self, house: House, row: str, model: str, tls: str) -> Endpoint | None:
        endpoint = house.endpoint(self.questions[model], tls)
        if endpoint is None:
            self.figures.append(Figure(row, _lepton(tls), self._loop(), None, note=NO_PLAINTEXT))
        return endpoint

    def measure_peers(self) -> None:
        """Measure every peer on every throughput row, and alone on the tiny model."""
        for row in _THROUGHPUT_ROWS:
            for name in self.options.peers if self.wants(row) or (row == "tiny" and self.wants("single")) else ():
                self._peer(name, row)
        self._quote()

    def _peer(self, name: str, row: str) -> None:
        label = LABELS[name]
        with self.trying(row, label), running_peer(name, self.questions[row], self.options) as endpoint:
            if self.wants(row):
                run = measure(endpoint, self.options, self.options.in_flight)
                note = "; ".join(run.notes)
                self.figures.append(Figure(row, label, self._loop(), run.rate, "req/s", run.p50, run.p99, note=note))
            if row == "tiny" and self.wants("single"):
                self.figures.append(_alone(label, endpoint, self.options))

    def _quote(self) -> None:
        for row, rate in _QUOTED.items():
            if self.wants(row):
                self.figures.append(
                    Figure(row, "Triton 2.51 (C++)", "32 in flight", rate, source="quoted", note=_QUOTED_NOTE)
                )
        if self.wants("single"):
            what = "p50, one at a time"
            self.figures.append(
                Figure("single", "Triton 2.51 (C++)", what, _QUOTED_SINGLE_MS, "ms", source="quoted", note=_QUOTED_NOTE)
            )

    def _loop(self) -> str:
        return f"{self.options.in_flight} in flight"


def run_bare(question: Question, options: Options, folder: Path) -> dict[int, float]:
    """Return rows a second by batch size of ONNX Runtime alone, pinned to the server's core."""
    written = graphs.write_question(question, folder / f"{question.model}.json")
    seconds = options.seconds * _BARE_SHARE_OF_SECONDS
    command = ["taskset", "-c", str(options.server_core), sys.executable, "-m", "benchmarks.serving.bare"]
    command += [str(question.onnx), str(written), f"{seconds:g}", str(options.threads)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return {int(size): rate for size, rate in json.loads(ran.stdout).items()}


def _alone(server: str, endpoint: Endpoint, options: Options, target: float | None = None) -> Figure:
    run = measure(endpoint, options, 1)
    note = f"{run.rate:,.0f} req/s"
    return Figure(
        "single", server, "p50, one at a time", run.p50, "ms", run.p50, run.p99, target, at_most=True, note=note
    )


def _lepton(tls: str) -> str:
    return f"Lepton (TLS {tls})"


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return str(error.stderr).strip().splitlines()[-1][:300]
    return str(error)[:300]
