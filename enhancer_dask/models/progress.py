"""How far a training is: what is remembered of it, what stops it, and what is shown meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from enhancer_dask.io.files import staged

DRAW_EVERY_S = 0.2
Say = Callable[[float, str], None]


@dataclass(slots=True)
class History:
    """The course of a training up to its last validation; all that going on needs, but for weights."""

    epoch: int = 0
    """Passes done."""
    step: int = 0
    """Steps done."""
    best_epoch: int = 0
    """Passes after which the validation was best; 0 if there is none yet."""
    best_loss: float = math.inf
    seconds: float = 0.0
    """Of training, over all calls."""
    stopped: bool = False
    """No further step will be taken."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Of ``metrics.csv``, one per validation."""

    def note(self, losses: Sequence[float], train_loss: float, lr: float, patience: int | None) -> int | None:
        """Remember a validation.

        Parameters
        ----------
        losses : sequence of float
            Validation loss of each replica.
        train_loss, lr : float
            Mean since the last validation, and the learning rate now.
        patience : int, optional
            Epochs without a better validation after which the training stops.

        Returns
        -------
        int or None
            The best replica, if it is better than all before.

        Examples
        --------
        >>> history = History(epoch=1)
        >>> history.note([0.5, 0.3, float("nan")], 0.4, 0.001, patience=2), history.best_loss
        (1, 0.3)
        >>> for history.epoch in (2, 3):
        ...     better = history.note([0.4, 0.4], 0.3, 0.001, patience=2)
        >>> better, history.best_epoch, history.stopped
        (None, 1, True)
        """
        usable = [loss if math.isfinite(loss) else math.inf for loss in losses]
        chosen = int(np.argmin(usable))
        self.rows.append(
            {"epoch": self.epoch, "step": self.step, "train_loss": train_loss, "val_loss": losses[chosen], "lr": lr}
        )
        if usable[chosen] < self.best_loss:
            self.best_loss, self.best_epoch = usable[chosen], self.epoch
            return chosen
        self.stopped |= patience is not None and self.epoch - self.best_epoch >= patience
        return None

    @property
    def table(self) -> pd.DataFrame:
        """All validations."""
        return pd.DataFrame(self.rows, columns=["epoch", "step", "train_loss", "val_loss", "lr"])

    def write(self, file: Path) -> None:
        """Write the table."""
        with staged(file) as work:
            self.table.to_csv(work, index=False)

    def asdict(self) -> dict[str, Any]:
        """Numbers and lists."""
        return asdict(self)


class Board:
    """The curves for TensorBoard; a training goes on without them where it is missing."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.writer: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=epoch + 1 if epoch else None)

    def add(self, row: dict[str, float]) -> None:
        """One validation."""
        if self.writer is not None:
            for name in ("train_loss", "val_loss", "lr"):
                self.writer.add_scalar(name, row[name], int(row["epoch"]))

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()


@contextmanager
def shown(name: str, epochs: int, show: bool) -> Iterator[Say | None]:
    """What shows the epochs that are done, with a note, as a bar on a terminal; None elsewhere."""
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=epochs, note="")
        drawn, done = -math.inf, 0

        def say(epoch: float, note: str) -> None:
            nonlocal drawn, done
            done = math.floor(epoch) + 1
            if time.monotonic() - drawn >= DRAW_EVERY_S:
                bar.update(task, completed=math.floor(epoch), note=note)
                drawn = time.monotonic()

        yield say
        bar.update(task, completed=done)
