"""The training loop as Lightning runs it.

One of Lightning's epochs is a round: the passes over the graphs from one validation to the next. Small models take a
few milliseconds a step, and what Lightning does around a step or an epoch would cost half as much again. So in one
process, without mixed precision, a round is also one of its steps, and the steps within are taken here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enhancer_dask.errors import InputError
from enhancer_dask.models.graph_data import Batches, GraphSet
from enhancer_dask.models.judging import error_totals, loss_totals, moved
from enhancer_dask.models.losses import mask_of, mean_loss
from enhancer_dask.models.options import TrainingOptions
from enhancer_dask.models.progress import Board, History, Say
from enhancer_dask.models.registry import Expression
from enhancer_dask.models.runs import (
    BEST,
    LAST,
    METRICS,
    PREFIX,
    TENSORBOARD,
    Weights,
    prefixed,
    write_checkpoint,
    write_weights,
)

try:
    import lightning as L
    import torch
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

SAVE_EVERY_S = 30.0  # what an interruption may cost, beside the round it falls into


def steps_at_once(options: TrainingOptions) -> bool:
    """Whether Lightning need not see the single steps: one process, and arithmetic as it is."""
    return options.devices == 1 and options.strategy == "auto" and options.precision == "32"


class DivergedError(InputError):
    """A training whose loss was never finite when it was looked at."""


@dataclass(frozen=True, slots=True)
class GraphSets:
    """The graphs to train on, to choose the best weights by, and to judge them by."""

    train: GraphSet
    validation: GraphSet
    test: GraphSet

    @property
    def kept_bytes(self) -> int:
        """Bytes of the shards that are kept in memory."""
        return sum(one.kept_bytes for one in self.by_name.values())

    @property
    def by_name(self) -> dict[str, GraphSet]:
        """The same three."""
        return {"training": self.train, "validation": self.validation, "test": self.test}


class Round:
    """Batches of several passes, one after the other; ``at_once`` all of them are one item, an iterator."""

    def __init__(self, batches: Batches, *, at_once: bool) -> None:
        self.batches, self.at_once = batches, at_once
        self.epochs = range(0)

    def __len__(self) -> int:
        return 1 if self.at_once else len(self.epochs) * len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        steps = self._steps()
        if self.at_once:
            yield steps
        else:
            yield from steps

    def _steps(self) -> Iterator[Data]:
        for epoch in self.epochs:
            self.batches.set_epoch(epoch)
            yield from self.batches


class TrainingTask(L.LightningModule):  # type: ignore[misc]
    """Trains one model; remembers the best weights, and saves what going on needs.

    Parameters
    ----------
    model : Expression
    options : TrainingOptions
    sets : GraphSets
    out : path
        The folder of the run.
    say : function, optional
        Shows the progress.
    """

    def __init__(
        self, model: Expression, options: TrainingOptions, sets: GraphSets, out: Path, *, say: Say | None = None
    ) -> None:
        super().__init__()
        self.model, self.options, self.sets, self.out, self.say = model, options, sets, out, say
        self.automatic_optimization = not steps_at_once(options)
        self.history = History()
        self.errors: Tensor | None = None
        """Of the best weights on the test graphs, once the training has ended; see :func:`.error_totals`."""
        self._loss = mean_loss(options.loss, delta=options.delta)
        self._own_loss: Callable[..., Tensor] | None = getattr(model, "training_loss", None)
        self._judged_by: dict[GraphSet, Batches] = {}
        self._best: Weights = {}
        self._resumed: dict[str, Any] | None = None
        self._sum, self._n = torch.zeros(()), 0

    # -- before --------------------------------------------------------------------------------------------------

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        self.model.load_state_dict({n.removeprefix(PREFIX): v for n, v in saved["state_dict"].items()})
        self.history, self._best = History(**saved["history"]), saved["best"]
        self._resumed = saved

    def calibrate(self) -> None:
        """Let the model look at all graphs to train on, the same in every process."""
        begin = time.perf_counter()
        self.model.calibrate(self.sets.train.batches(self.options.batch_size, shuffle=False))
        self.history.seconds = time.perf_counter() - begin

    @property
    def n_rounds(self) -> int:
        """Rounds that are left at most."""
        left = max(0, self.options.epochs - self.history.epoch)
        return 0 if self.history.stopped else -(-left // self.options.check_every)

    def train_dataloader(self) -> Round:
        """Batches of a round, of the share of this rank."""
        self.round = Round(self._of_rank(), at_once=not self.automatic_optimization)
        self._plan()
        return self.round

    def _of_rank(self) -> Batches:
        options, trainer = self.options, self.trainer
        return self.sets.train.batches(
            options.batch_size, shuffle=True, seed=options.seed, rank=trainer.global_rank,
            world_size=trainer.world_size, num_workers=options.num_workers,
        )  # fmt: skip

    def _plan(self) -> None:
        done = self.history.epoch
        self.round.epochs = range(done, min(done + self.options.check_every, self.options.epochs))

    def _others(self, graphs: GraphSet) -> Batches:
        """Batches to judge by, of the share of this rank; of all ranks they are every graph once."""
        if graphs not in self._judged_by:
            self._judged_by[graphs] = graphs.batches(
                graphs.large_batch(self.options.batch_size), shuffle=False, rank=self.trainer.global_rank,
                world_size=self.trainer.world_size, even=False,
            )  # fmt: skip
        return self._judged_by[graphs]

    def configure_optimizers(self) -> Any:
        """The optimiser and schedule of the model, or Adam with a constant rate."""
        options = self.options
        make = getattr(self.model, "optimiser", None)
        if make is not None:
            optimiser = make(options)
        else:
            fused = options.fused and self.device.type in ("cpu", "cuda")
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            optimiser = torch.optim.Adam(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=fused)
        schedule = getattr(self.model, "schedule", None)
        scheduler = None if schedule is None else schedule(optimiser, len(self._of_rank()) * options.epochs)
        if self._resumed is not None:
            optimiser.load_state_dict(self._resumed["optimiser"])
            if scheduler is not None:
                scheduler.load_state_dict(self._resumed["schedule"])
        if scheduler is None:
            return optimiser
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Take over the scale of 16-bit gradients, start the clock."""
        if self._resumed is not None:
            self.trainer.precision_plugin.load_state_dict(self._resumed["precision"])
        self._resumed = None
        self._board = Board(self.out / TENSORBOARD, self.history.epoch) if self.trainer.is_global_zero else None
        self._begun = time.perf_counter() - self.history.seconds
        self._saved_at = time.monotonic()
        self._sum = torch.zeros((), device=self.device)

    # -- steps ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """A round's random numbers are its own, so that one who goes on draws the same."""
        self._plan()
        words = np.random.SeedSequence([self.options.seed, self.history.epoch, self.trainer.global_rank])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches that are kept in memory move once."""
        return moved(batch, device) if isinstance(batch, Data) else batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """One step, the rest of which is left to Lightning, or all steps of a round."""
        per_epoch, first = len(self.round.batches), self.round.epochs.start
        if self.automatic_optimization:
            return self._step_loss(batch, first + batch_idx // per_epoch)
        optimiser: Any = self.trainer.optimizers[0]
        scheduler: Any = self.lr_schedulers()
        parameters, clip = [p for group in optimiser.param_groups for p in group["params"]], self.options.gradient_clip
        for i, one in enumerate(batch):
            optimiser.zero_grad()
            self._step_loss(moved(one, self.device), first + i // per_epoch).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            if scheduler is not None:
                scheduler.step()
        return None

    def _step_loss(self, batch: Data, epoch: int) -> Tensor:
        """Loss of a batch, the sum of those of all replicas: their gradients do not meet."""
        if self._own_loss is not None:
            loss = self._own_loss(batch, self._loss, epoch)
            shown = loss.detach()
        else:
            losses = self._loss(self.model.predictions(batch).float(), batch.y, mask_of(batch))
            loss, shown = losses.sum(), losses.detach().mean()
        self._sum += shown
        self._n += 1
        if self.say is not None:
            self.say(epoch, f"validation {self.history.best_loss:.5g}")
        return loss

    # -- between rounds ------------------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        """Validate, remember, and stop if it is time to."""
        history, options = self.history, self.options
        history.epoch, history.step = self.round.epochs.stop, history.step + self._n
        losses = self._validate()
        train_loss = float(self.trainer.strategy.reduce(self._sum / max(1, self._n), reduce_op="mean"))
        self._sum, self._n = torch.zeros_like(self._sum), 0
        lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if history.note(losses, train_loss, lr, options.patience) is not None:
            self.model.choose(torch.tensor(losses))
            self._best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        if not any(map(np.isfinite, losses)):
            history.stopped = True
        self.trainer.should_stop = history.stopped
        if self._board is not None:
            self._board.add(history.rows[-1])
            history.seconds = time.perf_counter() - self._begun
            if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
                self.save()

    def _validate(self) -> list[float]:
        """Validation loss of each replica."""
        totals = loss_totals(
            self.model, self._others(self.sets.validation), self._loss, device=self.device,
            context=self.trainer.precision_plugin.val_step_context,
        )  # fmt: skip
        *total, n = self._over_ranks(totals).tolist()
        if not n:
            raise InputError(self.sets.validation.nothing_counts())
        return [one / n for one in total]

    def _over_ranks(self, totals: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return totals
        return self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu()

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write what going on needs, the best weights, and the table so far."""
        scheduler: Any = self.lr_schedulers()
        state = {
            "state_dict": prefixed(self.model.state_dict()),
            "best": self._best,
            "history": self.history.asdict(),
            "optimiser": self.trainer.optimizers[0].state_dict(),
            "schedule": None if scheduler is None else scheduler.state_dict(),
            "precision": self.trainer.precision_plugin.state_dict(),
        }
        if self._best:
            write_weights(self.out / BEST, self._best, self.history.best_epoch)
        write_checkpoint(self.out / LAST, state)
        self.history.write(self.out / METRICS)
        self._saved_at = time.monotonic()

    def on_train_end(self) -> None:
        """Save the last state, then judge the best one."""
        if self._board is not None:
            self.history.seconds = time.perf_counter() - self._begun
            self.save()
        self.take_best()
        totals = error_totals(
            self.model, self._others(self.sets.test), device=self.device,
            context=self.trainer.precision_plugin.val_step_context,
        )  # fmt: skip
        self.errors = self._over_ranks(totals)

    def take_best(self) -> None:
        """Give the model the best weights.

        Raises
        ------
        DivergedError
            If no validation had a finite loss.
        """
        if not self._best:
            bad = self.sets.train.not_finite() or self.sets.validation.not_finite()
            raise DivergedError(
                f"{self.out}: the loss is not finite after epoch {self.history.epoch}, no weights are usable; "
                + (bad or "try a lower learning rate or a gradient clip")
            )
        self.model.load_state_dict(self._best)

    def teardown(self, stage: str) -> None:
        """Close the curves, however the training ended."""
        board = getattr(self, "_board", None)
        if board is not None:
            board.close()
