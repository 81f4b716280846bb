"""The one loop that trains every network: pytorch-lightning's, told and stopped as any fit is."""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import Tensor, nn

from servicekit.errors import InvalidArgument
from services.training.domain.families.checkpoints import Checkpoint
from services.training.domain.families.model import Progress, Run, Stopped
from services.training.domain.families.neural.batches import Batches, Learnable, Rows
from services.training.domain.families.neural.ranks import RankBatches, Ranks, check_parts, share_buffers, weight_of
from services.training.domain.families.neural.snapshot import Position, Snapshot, position_of
from services.training.domain.families.neural.synchronised import synchronise
from services.training.domain.families.neural.training import TRAINING_PHASE, Loss, Training

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}
_WATCHED = "validation_loss"
# Rows that are only judged, not learned from, need no gradients: more fit.
_JUDGED_ROWS = 4096


def train_network(
    network: nn.Module,
    loss: Loss,
    rows: Learnable,
    run: Run,
    aside: Rows | None = None,
    lengths: Tensor | None = None,
    phase: str = TRAINING_PHASE,
) -> None:
    """Train a network in place, by the settings of `neural.settings`; with rows aside, up to where these gain no more.

    Where that happens is the run's engine's to say. The same rows, settings, seed, threads and machine give the same
    weights, bit by bit, on a processor; also where it is cut and goes on from a checkpoint.

    Args:
        network: on the processor; parameters that ask for no gradients stay as they are.
        loss: the mean over rows of what the network says, and of what it should.
        rows: to learn from.
        run: settings, seed, progress.
        aside: rows that only decide when to stop, and which weights are kept.
        lengths: (rows,) of each of the rows to learn from, where they differ.
        phase: of the fit; a checkpoint of another one is left alone.

    Raises:
        InvalidArgument: the loss is no longer a number, and it says at which batch; or a weight is none at the end.
        Stopped: it was cancelled.
    """
    run.engine.train(Training(network, loss, rows, aside, lengths, phase), run)


def train_here(training: Training, run: Run, ranks: Ranks | None = None) -> None:
    """Train a network in this process, which may be one of several side by side."""
    ranks = ranks or Ranks()
    check_parts(training.loss, ranks)
    network, rows, aside, lengths = training.network, training.rows, training.aside, training.lengths
    torch.set_num_threads(run.threads)
    if ranks.is_many and run.settings.get("sync_batchnorm") == "on":
        synchronise(network)
    # Lightning leaves a network in the mode that it comes in, and a loaded one comes as it predicts.
    network.train()
    found = run.checkpoints.found
    resumed = Snapshot.from_bytes(found.content) if found and is_under_way(run, training.phase) else None
    done = resumed.position.epoch if resumed else 0
    skipped = resumed.position.batch if resumed else 0
    batches = rows.in_batches(min(int(run.number("batch_size")), len(rows)), run.seed, done, lengths, skipped)
    steps = len(batches) * int(run.number("epochs"))
    module = _Module(network, training.loss, run, ranks, steps, done)
    stopping = _stopping(run, aside)
    follow = _Follow(run, module, training.phase, stopping, resumed, keeps_best=aside is not None)
    parts: Iterable[Any] = RankBatches(batches, ranks, weight_of(training.loss)) if ranks.is_many else batches
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed % 2**63)
        trainer = lightning.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            **ranks.trainer,
            max_epochs=int(run.number("epochs")) - done,
            precision=_PRECISIONS[str(run.settings["precision"])],
            gradient_clip_val=run.number("gradient_clip") or None,
            deterministic=True,
            callbacks=[follow, *([stopping] if stopping else [])],
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        watched = None if aside is None else Batches(aside, _JUDGED_ROWS if lengths is None else batches.size)
        trainer.fit(module, train_dataloaders=parts, val_dataloaders=watched)
    if follow.best is not None:
        network.load_state_dict({**network.state_dict(), **follow.best})
    # After the last step there is no loss that would tell.
    if not _has_numbers(network):
        raise _diverged("a weight is no longer a number after the last batch", run)
    network.cpu().eval()


class _Module(lightning.LightningModule):
    """What Lightning asks of a network: its steps and its optimizer."""

    def __init__(self, network: nn.Module, loss: Loss, run: Run, ranks: Ranks, steps: int, done: int) -> None:
        super().__init__()
        self.network = network
        self._loss = loss
        # Not `_run`, nor `run`: names of Lightning's own.
        self._asked = run
        self.ranks = ranks
        self._steps = steps
        # Passes before this run of the loop; Lightning counts its own.
        self._done = done
        # Batches that were learned before the training was cut are passed over.
        self.is_skipping = False
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.loss_rows = 0
        # Of several ranks: whether to stop, and whether to keep a checkpoint, as all of them know by the latest step.
        self.wishes = (False, False)
        self._said: tuple[int, int, Callable[[], Tensor]] | None = None

    @property
    def epoch(self) -> int:
        """Passes done."""
        return self._done + self.current_epoch

    def training_step(self, batch: Any, index: int) -> Tensor | None:
        if self.is_skipping:
            return self._nothing() if self.ranks.is_many else None
        inputs, goals = batch[:2]
        found = self._loss(self.network(inputs), goals)
        if self.ranks.is_many:
            share, whole = batch[2:]
            # The others add theirs, and the gradients' mean over ranks is the batch's.
            found = found * share
            self._say(index, whole, found.detach())
        else:
            self._note(index, len(inputs), found.detach())
        return found

    def _say(self, index: int, rows: int, found: Tensor) -> None:
        """Begin to tell the other ranks this part's loss and, of the first rank, what is wished."""
        is_first = self.ranks.rank == 0
        wishes = (self._asked.is_cancelled(), self._asked.checkpoints.is_due()) if is_first else (False, False)
        values = torch.tensor([0.0, *map(float, wishes)], dtype=torch.float64, device=found.device)
        values[0] = found.double() / self.ranks.count
        self._said = index, rows, self.ranks.sum(values)

    def hear(self) -> None:
        """Take in what all ranks said of the step before, the same in each of them."""
        if self._said is not None:
            index, rows, wait = self._said
            self._said = None
            found, is_cancelled, is_due = wait()
            self.wishes = bool(is_cancelled), bool(is_due)
            self._note(index, rows, found)

    def _note(self, index: int, rows: int, found: Tensor) -> None:
        """Add a batch's loss to the pass's."""
        if not torch.isfinite(found):
            raise _diverged(
                f"the loss is no longer a number at batch {index + 1} of epoch {self.epoch + 1}", self._asked
            )
        # Not by `log`: its sums could not be kept in a checkpoint.
        self.loss_sum = self.loss_sum.to(found.device) + found.double() * rows
        self.loss_rows += rows

    def _nothing(self) -> Tensor:
        """Return a loss that no weight changes: what runs side by side takes part in every step."""
        weights = [one.flatten()[:1].sum() for one in self.network.parameters() if one.requires_grad]
        return torch.stack(weights).sum() * 0.0

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        inputs, goals = batch
        self.log(_WATCHED, self._loss(self.network(inputs), goals), batch_size=len(inputs))

    def configure_optimizers(self) -> Any:
        optimizer = _optimizer([one for one in self.network.parameters() if one.requires_grad], self._asked)
        warm_up = round(self._asked.number("warmup") * self._steps)
        schedule = str(self._asked.settings["schedule"])
        share = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: step_share(schedule, step, warm_up, self._steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": share, "interval": "step"}}


class _Follow(Callback):
    """Tells how far a training is, ends it where it is cancelled, keeps the best weights, and checkpoints."""

    def __init__(
        self,
        run: Run,
        module: _Module,
        phase: str,
        stopping: EarlyStopping | None,
        resumed: Snapshot | None,
        *,
        keeps_best: bool,
    ) -> None:
        self._run = run
        self._phase = phase
        self._stopping = stopping
        self._resumed = resumed
        self._keeps_best = keeps_best
        self._least = math.inf
        self.best: dict[str, Tensor] | None = None
        module.is_skipping = resumed is not None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._resumed is not None and batch_idx == self._resumed.position.batch:
            self._restore(trainer, pl_module, self._resumed)
            self._resumed = None
        elif not batch_idx and not pl_module.epoch:
            # Loading and reading are over: whoever watches sees when work begins.
            self._run.report(Progress(0.0, "first batch", 0, {}))
        is_cancelled, is_due = self._wishes(pl_module)
        # Before the place that it goes on from, what is in memory is of no time.
        is_wanted = self._resumed is None and (is_cancelled or is_due)
        # Weights that are no numbers would take the place of the last that were: the next loss tells of them.
        if is_wanted and _has_numbers(pl_module.network):
            self._run.checkpoints.keep(Checkpoint(self._snapshot(trainer, pl_module, batch_idx).to_bytes()))
        if is_cancelled:
            raise Stopped
        if pl_module.ranks.is_many:
            pl_module.ranks.seed(self._run.seed, pl_module.epoch, batch_idx)

    def _wishes(self, module: _Module) -> tuple[bool, bool]:
        """Return whether to stop, and whether a checkpoint is due."""
        if not module.ranks.is_many:
            return self._run.is_cancelled(), self._run.checkpoints.is_due()
        module.hear()
        wishes, module.wishes = module.wishes, (False, False)
        return wishes

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.hear()
        done, epochs = pl_module.epoch + 1, int(self._run.number("epochs"))
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics["loss"] = float(pl_module.loss_sum) / max(pl_module.loss_rows, 1)
        metrics["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        pl_module.loss_sum, pl_module.loss_rows = torch.zeros((), dtype=torch.float64), 0
        self._run.report(Progress(done / epochs, f"epoch {done} of {epochs}", done, metrics))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.ranks.is_many:
            # All of them judge the same network: what stands in it does not depend on who was started anew.
            share_buffers(pl_module.network)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        found = float(trainer.callback_metrics.get(_WATCHED, math.inf))
        if self._keeps_best and found < self._least:
            self._least = found
            changing = _changing(pl_module.network)
            self.best = {name: value.detach().cpu().clone() for name, value in changing.items()}

    def _snapshot(self, trainer: Any, module: _Module, batch: int) -> Snapshot:
        least = self._least if math.isfinite(self._least) else None
        return Snapshot(
            Position(
                self._phase,
                module.epoch,
                batch,
                least,
                float(module.loss_sum),
                module.loss_rows,
                int(self._run.number("batch_size")),
            ),
            _changing(module.network),
            trainer.optimizers[0].state_dict(),
            trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            self._stopping.state_dict() if self._stopping else {},
            self.best,
            _random_states(),
        )

    def _restore(self, trainer: Any, module: _Module, snapshot: Snapshot) -> None:
        position = snapshot.position
        module.is_skipping = False
        module.loss_sum, module.loss_rows = torch.tensor(position.loss, dtype=torch.float64), position.rows
        module.network.load_state_dict({**module.network.state_dict(), **snapshot.network})
        trainer.optimizers[0].load_state_dict(snapshot.optimizer)
        trainer.lr_scheduler_configs[0].scheduler.load_state_dict(dict(snapshot.schedule))
        if self._stopping and snapshot.stopping:
            self._stopping.load_state_dict(dict(snapshot.stopping))
        self.best = dict(snapshot.best) if snapshot.best is not None else None
        self._least = math.inf if position.least is None else position.least
        torch.set_rng_state(snapshot.random["cpu"])
        if "cuda" in snapshot.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(snapshot.random["cuda"])


def _diverged(what: str, run: Run) -> InvalidArgument:
    return InvalidArgument(
        f"{what}: lower learning_rate ({run.number('learning_rate'):g}), or set gradient_clip", reason="LOSS_DIVERGED"
    )


def _has_numbers(network: nn.Module) -> bool:
    """Return whether every weight that is trained is a finite number."""
    return all(bool(torch.isfinite(one).all()) for one in network.parameters() if one.requires_grad)


def _changing(network: nn.Module) -> dict[str, Tensor]:
    """Return what training can change: weights that ask for gradients, and buffers. The rest is there already."""
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else states


def is_under_way(run: Run, phase: str) -> bool:
    """Return whether a fit was cut in a phase: what comes before that is done."""
    found = run.checkpoints.found
    if found is None:
        return False
    position = position_of(found.content)
    return (position.phase, position.batch_size) == (phase, run.number("batch_size"))


def step_share(schedule: str, step: int, warm_up: int, steps: int) -> float:
    """Return the share of the largest step size that a step takes, 0 to 1.

    Args:
        schedule: constant, linear or cosine.
        step: from 0.
        warm_up: steps in which it grows.
        steps: of the whole run.
    """
    if step < warm_up:
        return (step + 1) / warm_up
    left = 1.0 - (step - warm_up) / max(steps - warm_up, 1)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
    return max(left, 0.0) if schedule == "linear" else 1.0


def _optimizer(parameters: list[nn.Parameter], run: Run) -> torch.optim.Optimizer:
    rate, decay = run.number("learning_rate"), run.number("weight_decay")
    name = run.settings["optimizer"]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=run.number("momentum"))
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay)


def _stopping(run: Run, aside: Rows | None) -> EarlyStopping | None:
    patience = int(run.number("early_stopping"))
    return EarlyStopping(_WATCHED, patience=patience, check_finite=False) if patience and aside is not None else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips and its advice on loaders, which here is wrong, out of the log."""
    logger = logging.getLogger("pytorch_lightning")
    level, was_deterministic = logger.level, torch.are_deterministic_algorithms_enabled()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch")
            yield
    finally:
        logger.setLevel(level)
        torch.use_deterministic_algorithms(was_deterministic)
