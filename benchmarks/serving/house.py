"""Lepton itself: a platform whose one inference worker is pinned to a core."""

import contextlib
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from benchmarks.harness import lepton, running_platform
from benchmarks.serving.endpoint import Endpoint, Outputs
from benchmarks.serving.options import Options
from benchmarks.serving.question import Question
from lepton.connection import Connection
from lepton.deployment import Deploy
from lepton.embedded.home import Home
from lepton.versions import ModelVersion
from services.inference.settings import WorkerSettings

NO_PLAINTEXT = "not available: this worker has no plaintext port (LEPTON_PLAINTEXT_PORT)"
_PLAINTEXT_OFFSET = 90
_GRPC_OFFSET = 1
_METRICS_OFFSET = 2
_WORKER = "inference-worker-1"
_CALLS = re.compile(r'^lepton_rpc_calls_total\{code="(\w+)",method="[^"]*ModelInfer"\} (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class House:
    """A running platform.

    Args:
        connection: of the SDK.
        options: ports and cores.
        worker: the pid of the process that serves.
    """

    connection: Connection
    options: Options
    worker: int

    def register(self, question: Question) -> ModelVersion:
        """Register a question's model as a new version."""
        return ModelVersion.upload(question.model, question.onnx, connection=self.connection)

    def serve(self, question: Question) -> ModelVersion:
        """Register a question's model and deploy it."""
        version = self.register(question)
        Deploy(version).save().wait()
        return version

    def endpoint(self, question: Question, tls: str, answers: tuple[Outputs, ...] = ()) -> Endpoint | None:
        """Return where a question is put; None where the worker has no plaintext port."""
        if tls == "off" and not has_plaintext():
            return None
        home = Home.find()
        return Endpoint(
            self.options.base_port + (_GRPC_OFFSET if tls == "on" else _PLAINTEXT_OFFSET),
            question,
            token=home.token.read_text().strip(),
            ca=home.ca if tls == "on" else None,
            answers=answers,
            count_failures=self.count_failures,
        )

    def count_failures(self) -> int:
        """Return the predictions that failed so far, by the worker's own metrics page.

        Cancelled ones are the clients' own doing: a load generator hangs up on what is under way when its time is over.
        """
        url = f"http://127.0.0.1:{self.options.base_port + _METRICS_OFFSET}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            page = response.read().decode()
        return sum(int(float(count)) for code, count in _CALLS.findall(page) if code not in ("OK", "CANCELLED"))

    def memory_bytes(self) -> int:
        """Return the worker's own share of memory (PSS)."""
        return int(psutil.Process(self.worker).memory_full_info().pss)

    def pin(self) -> None:
        """Keep every thread of the worker on its core; new threads inherit that."""
        # Twice, for a thread may start while the others are pinned.
        for _ in range(2):
            for thread in psutil.Process(self.worker).threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, {self.options.server_core})

    def is_whole(self) -> bool:
        """Return whether the worker is still the process that was pinned."""
        return _worker() == self.worker


def has_plaintext() -> bool:
    """Return whether this version's workers can serve without TLS."""
    return "plaintext_port" in WorkerSettings.model_fields


@contextlib.contextmanager
def running_house(options: Options) -> Iterator[House]:
    """Run a platform with its worker pinned; everything else of it stays on the load generator's core."""
    # Plain plans, as the bare session and the peers run them.
    os.environ["LEPTON_TUNING"] = "off"
    # The one core has room for one run; the platform would count the machine's.
    os.environ["LEPTON_PARALLEL_RUNS"] = "1"
    if "off" in options.tls and has_plaintext():
        os.environ["LEPTON_PLAINTEXT_PORT"] = str(options.base_port + _PLAINTEXT_OFFSET)
    with running_platform(options.base_port) as connection:
        house = House(connection, options, _worker())
        house.pin()
        yield house


def _worker() -> int:
    return int(json.loads(lepton("status", "--json"))["services"][_WORKER]["pid"])
