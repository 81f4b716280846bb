"""The engine port on a Ray cluster: Ray Train runs the workers, and starts them again where a node is lost."""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.torch import load

from servicekit.errors import KINDS, InvalidArgument, ResourceExhausted, Unavailable
from services.training.adapters.ray.post import CHECKPOINT, STOP, Post
from services.training.adapters.ray.seal import Seal
from services.training.adapters.ray.worker import DONE, FAILED, PROGRESS, STOPPED, Parcel, train_rank
from services.training.domain.families.checkpoints import Checkpoint
from services.training.domain.families.engine import EmbeddedEngine
from services.training.domain.families.model import Progress, Run, Stopped
from services.training.domain.families.neural.batches import Rows
from services.training.domain.families.neural.loop import is_under_way
from services.training.domain.families.neural.training import Training

_log = logging.getLogger(__name__)

# As often as a job reports: each look takes a little of the cores that train.
_LOOK_SECONDS = 0.5
# Less than a job's process has to stop.
_STOP_SECONDS = 2.5
# How long a cluster's head may take to answer.
_CONNECT_SECONDS = 5.0
# What takes its nodes down this often does so by itself.
_MOST_RESTARTS = 3


@dataclass(frozen=True)
class RayEngine:
    """Trains on a Ray cluster of which this machine is a node.

    Args:
        address: of the cluster: host:port of its head; auto for the one of this machine.
        workers: processes side by side.
        cores: of each.
        gpus: of each; where the cluster has one for each, one is taken in any case.
    """

    address: str
    workers: int = 1
    cores: float = 1.0
    gpus: float = 0.0

    def train(self, training: Training, run: Run) -> None:
        """Train a network in place.

        Raises:
            InvalidArgument: the loss is no longer a number, or rows that stream are to be learned by several workers.
            ResourceExhausted: a worker's node ran out of memory.
            Stopped: it was cancelled.
            Unavailable: there is no such cluster, or its workers were lost too often.
        """
        if not isinstance(training.rows, Rows):
            self._train_streamed(training, run)
            return
        with connected(self.address), TemporaryDirectory(prefix="lepton-ray-") as folder:
            seal = Seal()
            found = run.checkpoints.found
            snapshot = seal.close(found.content) if found and is_under_way(run, training.phase) else b""
            post = beside_this_process(Post).remote(seal.key, snapshot)
            trainer = self._trainer(post, Parcel.of(training, run, seal), folder)
            run.report(Progress(0.0, f"waiting for {self.workers} workers of the Ray cluster", 0, {}))
            # In a thread of its own, which ends with the connection at the latest.
            pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
            try:
                weights = _Follow(pool.submit(trainer.fit), post, seal, run).weights()
            finally:
                pool.shutdown(wait=False)
        training.network.load_state_dict(load(weights))
        training.network.eval()

    def _train_streamed(self, training: Training, run: Run) -> None:
        """Train here: rows that stream are never together, so that none could be sent."""
        if self.workers > 1:
            raise InvalidArgument(
                f"the table streams, for it is larger than the memory declared, and {self.workers} workers take rows "
                "from memory alone: declare more memory, or one worker",
                reason="STREAMS_TO_ONE_WORKER",
            )
        EmbeddedEngine().train(training, run)

    def _trainer(self, post: Any, parcel: Parcel, folder: str) -> TorchTrainer:
        gpus = self.gpus or float(ray.cluster_resources().get("GPU", 0.0) >= self.workers)
        resources = {"CPU": self.cores, **({"GPU": gpus} if gpus else {})}
        return TorchTrainer(
            train_rank,
            train_loop_config={"post": post, "parcel": parcel},
            scaling_config=ScalingConfig(num_workers=self.workers, use_gpu=gpus > 0, resources_per_worker=resources),
            # Ray Train keeps nothing of ours there: snapshots go through the post.
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=_MOST_RESTARTS)),
        )


@dataclass
class _Follow:
    """Hears what workers tell, and lets them know what the job wishes, until they end.

    Args:
        fit: Ray Train's.
        post: between the two.
        seal: of the run.
        run: the job's.
    """

    fit: "Future[Any]"
    post: Any
    seal: Seal
    run: Run
    _weights: bytes = b""
    _is_stopped: bool = False
    _is_asked: bool = False
    _ends: float = field(default=float("inf"))

    def weights(self) -> bytes:
        """Return the network's weights in the end, as safetensors."""
        while not self.fit.done():
            self._hear()
            self._wish()
            wait([self.fit], timeout=_LOOK_SECONDS)
        self._hear()
        if self._is_stopped:
            raise Stopped
        if not self._weights:
            raise _reason(self.fit.exception())
        return self._weights

    def _wish(self) -> None:
        if self.run.is_cancelled():
            if self._ends == float("inf"):
                self._ends = time.monotonic() + _STOP_SECONDS
                self.post.ask.remote(STOP)
            elif time.monotonic() > self._ends:
                # None runs at present that could say where it stands.
                raise Stopped
        elif not self._is_asked and self.run.checkpoints.is_due():
            self._is_asked = True
            self.post.ask.remote(CHECKPOINT)

    def _hear(self) -> None:
        for kind, what in ray.get(self.post.news.remote()):
            if kind == PROGRESS:
                # Whether it is to stop is asked in any case.
                with contextlib.suppress(Stopped):
                    self.run.report(Progress(**what))
            elif kind == CHECKPOINT:
                self._is_asked = False
                self.run.checkpoints.keep(Checkpoint(self.seal.open(what)))
            elif kind == DONE:
                self._weights = self.seal.open(what)
            elif kind == STOPPED:
                self._is_stopped = True
            elif kind == FAILED:
                status, message, reason = what
                raise KINDS[status](message, reason=reason)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a Ray cluster; leaving ends all that it runs for this process.

    Raises:
        Unavailable: there is none.
    """
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise Unavailable(
            f"no Ray cluster answers at {address}: let this machine join it by `ray start --address=HEAD:6379`, and "
            f"set LEPTON_RAY_ADDRESS ({_first_line(error)})",
            reason="RAY_AWAY",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that somebody listens: Ray itself waits for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


def beside_this_process(actor: type) -> Any:
    """Return an actor's class that is started on this machine: a lost node must not take it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=here)


def _reason(error: BaseException | None) -> Exception:
    if "OutOfMemoryError" in str(error):
        return ResourceExhausted("a worker's node ran out of memory: declare more", reason="OUT_OF_MEMORY")
    _log.error("training on Ray failed", exc_info=error)
    why = _first_line(error) if error else "its workers ended without a result"
    return Unavailable(
        f"training on Ray failed, and {_MOST_RESTARTS} restarts did not help: {why}", reason="RAY_FAILED"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
