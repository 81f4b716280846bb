"""Another version every few seconds under load: what fails, and whether memory grows."""

import contextlib
import statistics
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.serving.checking import Checking
from benchmarks.serving.endpoint import Endpoint
from benchmarks.serving.house import House
from benchmarks.serving.load import h2load
from lepton.deployment import Deploy

_SWAP_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0
# Of the samples: the first are warming up; then those at the beginning and at the end are compared.
_WARMING = 0.1
_WINDOW = 0.2


@dataclass(frozen=True)
class Swaps:
    """What was seen.

    Args:
        swaps: how often the version changed.
        rate: right answers a second.
        failed: requests that failed, by h2load, by our checking client and by the server's count, whichever says most.
        problem: of the first failure.
        versions_seen: how many versions answered the checking client.
        memory_bytes: PSS at the beginning and at the end.
    """

    swaps: int
    rate: float
    failed: int
    problem: str
    versions_seen: int
    memory_bytes: tuple[float, float]

    @property
    def growth_percent(self) -> float:
        """How much memory grew, percent."""
        before, after = self.memory_bytes
        return (after / before - 1) * 100


def swap_under_load(house: House, endpoint: Endpoint, versions: tuple[str, ...], rate: float) -> Swaps:
    """Keep a load up while versions take turns.

    Args:
        house: the platform.
        endpoint: the deployment; any version's answer is right.
        versions: name@number, taking turns.
        rate: requests a second.
    """
    options = house.options
    samples: list[int] = []
    turns: list[str] = []
    deployment = Deploy(endpoint.question.model, connection=house.connection)

    def swap() -> None:
        turns.append(versions[(len(turns) + 1) % len(versions)])
        deployment.save(version=turns[-1])

    before = house.count_failures()
    with Checking(endpoint) as checking:
        checking.ask()
        with (
            checking.going_on(),
            _every(_SAMPLE_SECONDS, lambda: samples.append(house.memory_bytes())),
            _every(_SWAP_SECONDS, swap),
        ):
            run = h2load(endpoint, options, options.in_flight, seconds=options.swap_seconds, rate=rate, log=False)
    counted = house.count_failures() - before
    return Swaps(
        swaps=len(turns),
        rate=run.rate,
        failed=max(run.failed, len(checking.problems), counted),
        problem=checking.problems[0] if checking.problems else "",
        versions_seen=len(checking.seen),
        memory_bytes=_ends(samples),
    )


@contextlib.contextmanager
def _every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in a thread while the block runs; what it raises is raised at the end."""
    stopping = threading.Event()
    failures: list[Exception] = []

    def repeat() -> None:
        while not stopping.wait(seconds):
            try:
                act()
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    if failures:
        raise failures[0]


def _ends(samples: list[int]) -> tuple[float, float]:
    settled = samples[int(len(samples) * _WARMING) :]
    window = max(int(len(settled) * _WINDOW), 1)
    return statistics.median(settled[:window]), statistics.median(settled[-window:])
