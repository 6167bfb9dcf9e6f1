"""From DNA to tracks at 100 bp: what Seq-GraphReg and Seq-CNN stand on.

Sequence is read in pieces of 100 kb, some at a time, and each group of pieces is computed again for the gradient
instead of kept, so the memory is that of one group however long the window is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import cast

from enhancer_dask.errors import InputError
from enhancer_dask.models.blocks import DilatedStack, batch_norm, conv, names_of, start_as_keras
from enhancer_dask.models.data import one_hot
from enhancer_dask.models.fine_epigenome import TRACKS, tracks_of
from enhancer_dask.models.losses import Loss, mask_of
from enhancer_dask.models.registry import Expression
from enhancer_dask.models.strands import lengths

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err


class SequenceTracks(Expression):
    """Tracks in bins of 100 bp from sequence alone: the first stage of Seq-GraphReg.

    ``sequence`` (N, L) codes, or one-hot (N, 4, L), L = 5,000 bp per bin -> tracks (N, T, F), F = L / 100:

    - for each of ``widths`` a convolution (21 bp, then 3), ReLU, batch norm, maximum over 2, 2, 5, 5 and 1: the latent
      representation, (N, 64, F);
    - ``dilated`` residual convolutions with dilations 2, 4, ... 64;
    - for each track a convolution over ``track_kernel`` and exp.

    It learns tracks, not expression: the trainer's hooks :meth:`training_loss` and :meth:`validation_loss` take the
    mean over tracks of the loss in the bins of ``loss_mask``, and do not read pieces that go together and have none of
    them. ``forward`` has one number per bin for the tables of predictions: the predicted signal of the bin, summed over
    its tracks and fine bins.

    Parameters
    ----------
    tracks : names
        Node variables to predict, (N, F) each.
    widths, pools : sequences of int
        Channels; and pools after all convolutions but the last. Their product divides L.
    kernel : int
        Of the first convolution, bp.
    dilated, track_kernel : int
    dropout, momentum : float
        See :class:`enhancer_dask.models.fine_epigenome.FineEpigenome`.
    dropout_from : int
        The first convolution with dropout before it: 1 as published, 2 in the end-to-end form.
    piece : int
        Bins in a piece of sequence: 20 of 5 kb.
    at_once : int
        Pieces that are computed together, and over which batch norm takes its means in training: the published batch.

    Notes
    -----
    Published training takes a step after each ``at_once`` pieces; here a window is a step, of the mean over its pieces:
    one for five with 20 pieces in the loss mask.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.
    """

    def __init__(
        self,
        *,
        tracks: str | Sequence[str] = TRACKS,
        widths: Sequence[int] = (256, 128, 128, 128, 64),
        pools: Sequence[int] = (2, 2, 5, 5),
        kernel: int = 21,
        dilated: int = 6,
        track_kernel: int = 5,
        dropout: float = 0.5,
        dropout_from: int = 1,
        momentum: float = 0.01,
        piece: int = 20,
        at_once: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) != len(pools) + 1 or min(pools) < 1:
            raise InputError(f"widths is {tuple(widths)}, pools {tuple(pools)}; want one more width than pools of >= 1")
        if piece < 1 or at_once < 1:
            raise InputError(f"piece is {piece}, at_once {at_once}; want at least 1")
        self.tracks, self.pools, self.latent = names_of(tracks, "tracks"), tuple(pools), widths[-1]
        self.piece, self.at_once = piece, at_once
        self.base = nn.Sequential(*_base(widths, (*pools, 1), kernel, dropout, dropout_from, momentum))
        self.stack = DilatedStack(widths[-1], dilated, dropout=dropout, momentum=momentum)
        self.heads = conv(widths[-1], len(self.tracks), track_kernel)
        start_as_keras(self)

    def forward(self, batch: Data) -> Tensor:
        """Predicted signal of each bin, shape (N,): see the class."""
        return self.predict_tracks(batch).sum(dim=(1, 2))

    def predict_tracks(self, batch: Data) -> Tensor:
        """Predicted tracks, float32, shape (N, T, F)."""
        return self._in_pieces(batch, self._tracks)

    def latents(self, batch: Data) -> Tensor:
        """What the tracks are predicted from, shape (N, latent, F)."""
        return self._in_pieces(batch, self.base)

    def latents_and_tracks(self, batch: Data) -> tuple[Tensor, Tensor]:
        """Both of them in one pass."""
        both = self._in_pieces(batch, self._both)
        return both[:, : self.latent], both[:, self.latent :]

    def training_loss(self, batch: Data, loss: Loss, epoch: int) -> Tensor:
        """Mean of the losses of the tracks."""
        return self.validation_loss(batch, loss)

    def validation_loss(self, batch: Data, loss: Loss) -> Tensor:
        """The same: what early stopping looks at."""
        mask, every = mask_of(batch), self._groups(batch)
        groups = [group for group in every if mask is None or mask[slice(*group[:2])].any()] or every
        read = torch.cat([torch.arange(start, stop) for start, stop, _ in groups])
        predicted, mask = self._in_pieces(batch, self._tracks, groups), None if mask is None else mask[read]
        return self.track_losses(predicted, self.truth(batch)[read], loss, mask).mean()

    def truth(self, batch: Data) -> Tensor:
        """Tracks as measured, shape (N, T, F)."""
        return tracks_of(batch, self.tracks)

    def track_losses(self, predicted: Tensor, truth: Tensor, loss: Loss, mask: Tensor | None) -> Tensor:
        """Loss of each track, shape (T,), over the fine bins of the bins of a mask (N,); of all without it."""
        if truth.shape != predicted.shape:
            have, want = truth.shape[2], predicted.shape[2]
            raise InputError(f"tracks have {have} fine bins per bin; sequence and pools {self.pools} make {want}")
        fine = None if mask is None else mask.unsqueeze(1).expand(-1, predicted.shape[2]).flatten()
        losses = [loss(predicted[:, t].flatten(), truth[:, t].flatten(), fine) for t in range(len(self.tracks))]
        return torch.stack(losses)

    def inputs(self, batch: Data) -> dict[str, Tensor]:
        """Sequence as one-hot, (N, 4, L), which ``forward`` takes in the place of codes."""
        return {"sequence": _rows(_sequence(batch), 1)}

    def _tracks(self, rows: Tensor) -> Tensor:
        return self._tracks_of(self.base(rows))

    def _both(self, rows: Tensor) -> Tensor:
        latents = self.base(rows)
        return torch.cat([latents.float(), self._tracks_of(latents)], dim=1)

    def _tracks_of(self, latents: Tensor) -> Tensor:
        return self.heads(self.stack(latents, lambda convolve, now: convolve(now))).float().exp()

    def _groups(self, batch: Data) -> list[tuple[int, int, int]]:
        return list(_groups(lengths(batch), self.piece, self.at_once))

    def _in_pieces(
        self, batch: Data, apply: Callable[[Tensor], Tensor], groups: Sequence[tuple[int, int, int]] | None = None
    ) -> Tensor:
        """A function of rows (pieces, 4, bp) -> (pieces, C, fine bins) for the bins of groups, or all: (N, C, F)."""
        sequence = _sequence(batch)
        if sequence.shape[-1] % prod(self.pools):
            raise InputError(f"pools is {self.pools}; their product must divide the {sequence.shape[-1]} bp of a bin")
        found = []
        for start, stop, bins in self._groups(batch) if groups is None else groups:
            part = sequence[start:stop]
            done = self._run(apply, part, bins)
            found.append(done.unflatten(2, (bins, -1)).transpose(1, 2).flatten(0, 1))
        return torch.cat(found)

    def _run(self, apply: Callable[[Tensor], Tensor], part: Tensor, bins: int) -> Tensor:
        def run(sequence: Tensor) -> Tensor:
            return apply(_rows(sequence, bins))

        learns = any(p.requires_grad for p in self.parameters()) or part.requires_grad
        if not (torch.is_grad_enabled() and learns):
            return run(part)
        return cast(Tensor, checkpoint(run, part, use_reentrant=False, context_fn=self._contexts))

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), FrozenStatistics(self)


class FrozenStatistics:
    """Batch norms of a model remember nothing of what they see meanwhile: it is seen for the second time.

    It may be entered again and again, as one backward pass per gene computes the same pieces again.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        self.momenta: list[float | None] = []

    def __enter__(self) -> None:
        self.momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, momentum in zip(self.norms, self.momenta, strict=True):
            norm.momentum = momentum


class _ConvPool(nn.Module):
    """Dropout, convolution, ReLU, batch norm, maximum: rows (pieces, C, L) -> (pieces, D, L / pool)."""

    def __init__(self, channels: int, width: int, kernel: int, pool: int, dropout: float, momentum: float) -> None:
        super().__init__()
        self.dropout, self.pool = nn.Dropout(dropout), pool
        self.conv, self.norm = conv(channels, width, kernel), batch_norm(width, momentum)

    def forward(self, rows: Tensor) -> Tensor:
        return functional.max_pool1d(self.norm(functional.relu(self.conv(self.dropout(rows)))), self.pool)


def _base(
    widths: Sequence[int], pools: Sequence[int], kernel: int, dropout: float, dropout_from: int, momentum: float
) -> Iterator[nn.Module]:
    channels = 4
    for i, (width, pool) in enumerate(zip(widths, pools, strict=True)):
        share = dropout if i >= dropout_from else 0.0
        yield _ConvPool(channels, width, 3 if i else kernel, pool, share, momentum)
        channels = width


def _sequence(batch: Data) -> Tensor:
    sequence = batch.get("sequence")
    if sequence is None or sequence.ndim != (3 if sequence.is_floating_point() else 2):
        found = "none" if sequence is None else f"shape {tuple(sequence.shape)}"
        raise InputError(f"sequence is wanted as codes (bins, bp) or one-hot (bins, 4, bp), found {found}")
    return sequence


def _rows(sequence: Tensor, bins: int) -> Tensor:
    """Pieces of some bins each as one-hot rows, float, shape (pieces, 4, bins * bp)."""
    if sequence.is_floating_point():
        return sequence.unflatten(0, (-1, bins)).transpose(1, 2).flatten(2)
    return one_hot(sequence.unflatten(0, (-1, bins)).flatten(1))


def _groups(sizes: list[int], piece: int, at_once: int) -> Iterator[tuple[int, int, int]]:
    """(first bin, last bin + 1, bins in a piece) of pieces of one length that are computed together.

    Every graph is cut from its start; what is left at its end is a shorter piece.
    """
    start = 0
    for size in sizes:
        end, whole = start + size, start + size // piece * piece
        while start < whole:
            stop = min(start + piece * at_once, whole)
            yield start, stop, piece
            start = stop
        if start < end:
            yield start, end, end - start
            start = end
