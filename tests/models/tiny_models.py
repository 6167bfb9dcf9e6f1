"""Models small enough to know what training must do to them."""

import sys

import torch
from torch import nn

from enhancer_dask.models import registry
from enhancer_dask.models.registry import Expression, ModelSpec


class Linear(Expression):
    """A line from ``x`` to ``y``; ``replicas`` of them from different starts."""

    def __init__(
        self, in_channels: int = 1, replicas: int = 1, dropout: float = 0.0, start: float | None = None
    ) -> None:
        super().__init__()
        self.replicas = replicas
        self.slope = nn.Parameter(torch.randn(replicas, in_channels) if start is None else torch.full((1, 1), start))
        self.shift = nn.Parameter(torch.zeros(replicas))
        self.dropout = nn.Dropout(dropout)

    def predictions(self, batch):
        return self.slope @ self.dropout(batch.x).T + self.shift[:, None]


class Scheduled(Linear):
    """Brings its own optimiser, schedule and loss."""

    def optimiser(self, training):
        return torch.optim.SGD(self.parameters(), lr=training.lr)

    def schedule(self, optimiser, total_steps):
        self.total_steps = total_steps
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total_steps)

    def training_loss(self, batch, loss, epoch):
        return loss(self(batch), batch.y, None) * (epoch + 1)


class Mean(Expression):
    """The mean of ``y``."""

    closed_form = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def fit(self, batches):
        values = torch.cat([batch.y for batch in batches])
        self.mean.fill_(values.mean())

    def predictions(self, batch):
        return self.mean.expand(1, batch.num_nodes)


class Exploding(Linear):
    """Never has a finite loss."""

    def predictions(self, batch):
        return super().predictions(batch) * float("nan")


def register() -> None:
    """Add them to the registry, once."""
    sys.modules["enhancer_dask.models.tiny_models"] = sys.modules[__name__]
    for name, kind in (("linear", Linear), ("scheduled", Scheduled), ("mean-of-y", Mean), ("exploding", Exploding)):
        if name not in registry.SPECS:
            registry.register(ModelSpec(name, f"tiny_models:{kind.__name__}", "for tests", training={"epochs": 4}))
