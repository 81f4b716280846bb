"""One process of a training on Ray: runs the loop of all networks on its part of each batch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
import ray.train
from ray import cloudpickle
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from safetensors.torch import load, save
from torch import Tensor, contiguous_format

from servicekit.errors import LeptonError
from services.training.adapters.ray.post import CHECKPOINT, STOP
from services.training.adapters.ray.seal import Seal
from services.training.domain.families.checkpoints import Checkpoint, NoCheckpoints
from services.training.domain.families.model import Progress, Run, Settings, Stopped
from services.training.domain.families.neural.batches import Rows
from services.training.domain.families.neural.loop import train_here
from services.training.domain.families.neural.ranks import Ranks
from services.training.domain.families.neural.training import Training
from services.training.memory import keep_what_is_freed

PROGRESS, DONE, STOPPED, FAILED = "progress", "done", "stopped", "failed"


@dataclass(frozen=True)
class Parcel:
    """A training as it goes through the object store.

    Args:
        tensors: of the rows, as safetensors.
        code: network, loss, phase and settings, as Ray moves objects between processes.
        seed, threads: as in Run.
    """

    tensors: list[Any]
    code: list[Any]
    seed: int
    threads: int

    @classmethod
    def of(cls, training: Training, run: Run, seal: Seal) -> "Parcel":
        """Put a training, whose rows are in memory, into the object store."""
        assert isinstance(training.rows, Rows)
        tensors = {"inputs": training.rows.inputs, "goals": training.rows.goals}
        if training.aside is not None:
            tensors |= {"aside_inputs": training.aside.inputs, "aside_goals": training.aside.goals}
        if training.lengths is not None:
            tensors["lengths"] = training.lengths
        # Cloned where they share memory, as in masked language modelling: safetensors refuses such.
        rows = save({name: value.clone(memory_format=contiguous_format) for name, value in tensors.items()})
        code = cloudpickle.dumps((training.network, training.loss, training.phase, dict(run.settings)))
        return cls(seal.put(rows), seal.put(code), run.seed, run.threads)

    def open(self, seal: Seal) -> tuple[Training, Settings]:
        """Return the training, and the run's settings."""
        network, loss, phase, settings = cloudpickle.loads(seal.get(self.code))
        tensors = load(seal.get(self.tensors))
        aside = Rows(tensors["aside_inputs"], tensors["aside_goals"]) if "aside_inputs" in tensors else None
        rows = Rows(tensors["inputs"], tensors["goals"])
        return Training(network, loss, rows, aside, tensors.get("lengths"), phase), settings


@dataclass
class _Found(NoCheckpoints):
    """What every worker goes on from; it keeps nothing."""

    found: Checkpoint | None = None


@dataclass
class _Wishes:
    """What the job wishes, as its first worker sees it without waiting; keeps its checkpoints.

    Args:
        post: the job's.
        seal: of the run.
        found: to go on from.
    """

    post: Any
    seal: Seal
    found: Checkpoint | None = None
    _answer: Any = field(default=None, repr=False)

    def _wish(self) -> str:
        self._answer = self._answer or self.post.wish.remote()
        ready, _ = ray.wait([self._answer], timeout=0)
        return str(ray.get(self._answer)) if ready else ""

    def is_stopped(self) -> bool:
        return self._wish() == STOP

    def is_due(self) -> bool:
        return self._wish() == CHECKPOINT

    def keep(self, checkpoint: Checkpoint) -> None:
        self.post.keep.remote(self.seal.close(checkpoint.content))
        self._answer = None


def train_rank(config: Mapping[str, Any]) -> None:
    """Train as one of the workers; the first tells the job how it goes, and what came of it.

    Args:
        config: the post, and the parcel.
    """
    keep_what_is_freed()
    post = config["post"]
    key, snapshot = ray.get(post.begin.remote())
    seal = Seal(key)
    training, settings = config["parcel"].open(seal)
    found = Checkpoint(seal.open(snapshot)) if snapshot else None
    ranks = _ranks()
    parcel: Parcel = config["parcel"]
    wishes = _Wishes(post, seal, found)
    is_first = ranks.rank == 0
    run = Run(
        settings,
        parcel.seed,
        (lambda progress: _tell_progress(post, progress)) if is_first else (lambda _: None),
        wishes.is_stopped if is_first else (lambda: False),
        parcel.threads,
        wishes if is_first else _Found(found),
    )
    try:
        train_here(training, run, ranks)
    except Stopped:
        ray.get(post.tell.remote(STOPPED, None))
    except LeptonError as error:
        # All of them raise it at the same step: none waits for another.
        ray.get(post.tell.remote(FAILED, (error.status, error.message, error.reason)))
    else:
        if is_first:
            ray.get(post.tell.remote(DONE, seal.close(_weights(training))))


def _ranks() -> Ranks:
    context = ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    if count == 1:
        # As in the job's own process, to the bit.
        return Ranks()
    # Buffers follow from each rank's own rows until the first one's are shared: a step needs no others'.
    strategy = RayDDPStrategy(broadcast_buffers=False, static_graph=True, gradient_as_bucket_view=True)
    trainer = {"strategy": strategy, "plugins": [RayLightningEnvironment()], "devices": "auto"}
    return Ranks(rank, count, {**trainer, "use_distributed_sampler": False})


def _tell_progress(post: Any, progress: Progress) -> None:
    post.tell.remote(PROGRESS, asdict(progress))


def _weights(training: Training) -> bytes:
    values: dict[str, Tensor] = {name: value.contiguous() for name, value in training.network.state_dict().items()}
    return save(values)
