"""Expression from DNA: Seq-GraphReg and Seq-CNN, on a base that reads sequence."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

from enhancer_dask.errors import InputError
from enhancer_dask.models.blocks import PoolingTrunk, start_as_keras
from enhancer_dask.models.fine_epigenome import TRACKS, head_of
from enhancer_dask.models.layers import edge_weight as weight_named
from enhancer_dask.models.losses import Loss, mask_of
from enhancer_dask.models.registry import Expression, build
from enhancer_dask.models.runs import load_model
from enhancer_dask.models.sequence import SequenceTracks
from enhancer_dask.models.strands import lengths

try:
    from torch import Tensor
    from torch_geometric.data import Data
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

FORMS = ("separate", "end-to-end")


class SequenceExpression(Expression):
    r"""Expression from sequence: Seq-GraphReg over contacts, Seq-CNN without them.

    ``sequence`` (N, L), ``edge_index`` (2, E) -> (N,): latents at 100 bp of :class:`SequenceTracks`; three convolutions
    of ``width`` channels with pools 2, 5, 5 along the whole window
    (:class:`enhancer_dask.models.blocks.PoolingTrunk`); then the head of
    :class:`enhancer_dask.models.fine_epigenome.FineEpigenome`, contacts or dilated.

    - ``form="separate"``: the latents are those of a run of seq-tracks, which stay as they are; expression alone is
      learned.
    - ``form="end-to-end"``: a smaller base of its own (``base_widths``) learns together with the head, from
      :math:`\alpha L(expression) + (1 - \alpha) \sum_{tracks} L`,
      :math:`\alpha = \max(0.01, 1 / (1 + e^{-(epoch - 10)}))`, epochs counted from 1: first the tracks, then expression
      (:meth:`training_loss`). The losses of tracks take all bins of a window, that of expression those of
      ``loss_mask``. Validation and so early stopping look at expression.

    Parameters
    ----------
    form, head : str
    base : path or mapping
        Folder of the run, for ``form="separate"``; or what it says of itself, as the ``run.json`` of a training does:
        then the base waits for its weights, which are among those of this model.
    tracks, base_widths, base_pools, track_kernel, base_dilated, piece, at_once
        Of the base, for ``form="end-to-end"`` only; see :class:`SequenceTracks`.
    width, pools
        Of the trunk. The product of the pools is that of the fine bins in a bin.
    graph, graph_layers, heads, head_width, hidden, dilated, dropout, momentum, edge_weight
        See :class:`enhancer_dask.models.fine_epigenome.FineEpigenome`.

    Notes
    -----
    The published end-to-end form also breaks the three convolutions at the ends of the pieces; here only the base
    does. There all 60 pieces of a window are one batch of its norms, here ``at_once`` of them, which takes less memory.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.
    """

    def __init__(
        self,
        *,
        form: str = "end-to-end",
        base: str | Path | Mapping[str, Any] | None = None,
        head: str = "contacts",
        tracks: str | Sequence[str] = TRACKS,
        base_widths: Sequence[int] = (32, 32, 64, 128, 64),
        base_pools: Sequence[int] = (2, 2, 5, 5),
        base_dilated: int = 6,
        track_kernel: int = 3,
        piece: int = 20,
        at_once: int = 4,
        width: int = 128,
        pools: Sequence[int] = (2, 5, 5),
        graph: str = "graphreg",
        graph_layers: int = 3,
        heads: int = 4,
        head_width: int = 32,
        hidden: int = 64,
        dilated: int = 8,
        dropout: float = 0.5,
        momentum: float = 0.01,
        edge_weight: str | None = None,
    ) -> None:
        super().__init__()
        self.form, self.edge_weight, self.gate_layers = form, edge_weight, graph_layers
        if form == "separate":
            _refuse_own(
                base_widths=base_widths, base_pools=base_pools, base_dilated=base_dilated, track_kernel=track_kernel,
                piece=piece, at_once=at_once,
            )  # fmt: skip
            stage = _trained(base)
        elif form != "end-to-end":
            raise InputError(f"form is {form!r}, want one of {', '.join(FORMS)}")
        elif base is not None:
            raise InputError(f"base is {str(base)!r}, but form is 'end-to-end'; want form 'separate'")
        else:
            stage = SequenceTracks(
                tracks=tracks, widths=base_widths, pools=base_pools, dilated=base_dilated, track_kernel=track_kernel,
                dropout=dropout, dropout_from=2, momentum=momentum, piece=piece, at_once=at_once,
            )  # fmt: skip
        self.trunk = PoolingTrunk(
            stage.latent, width, [3] * len(pools), pools, dropout=dropout, momentum=momentum,
            dropout_first=form == "end-to-end",
        )  # fmt: skip
        self.head = head_of(
            head, width, graph=graph, graph_layers=graph_layers, heads=heads, head_width=head_width, hidden=hidden,
            dilated=dilated, dropout=dropout, momentum=momentum, weighted=edge_weight is not None,
        )  # fmt: skip
        start_as_keras(self)
        self.base = stage.requires_grad_(form == "end-to-end")
        self.train(self.training)

    def train(self, mode: bool = True) -> SequenceExpression:
        """As in torch; a trained base stays in evaluation."""
        super().train(mode)
        if self.form == "separate":
            self.base.eval()
        return self

    def forward(self, batch: Data) -> Tensor:
        """Expression of each bin, shape (N,)."""
        return self._expression(self.base.latents(batch), batch)

    def predict_tracks(self, batch: Data) -> Tensor:
        """Tracks as the base predicts them, shape (N, T, F)."""
        return self.base.predict_tracks(batch)

    def training_loss(self, batch: Data, loss: Loss, epoch: int) -> Tensor:
        """Loss of an epoch, counted from 0: of expression and, end-to-end, of tracks."""
        if self.form == "separate":
            return loss(self(batch), batch.y, mask_of(batch))
        latents, tracks = self.base.latents_and_tracks(batch)
        share = share_of_expression(epoch)
        of_tracks = self.base.track_losses(tracks, self.base.truth(batch), loss, None).sum()
        return share * loss(self._expression(latents, batch), batch.y, mask_of(batch)) + (1 - share) * of_tracks

    def edge_gates(self, batch: Data) -> Tensor | None:
        """Attention of the edges, layer by layer and head by head, (E, graph_layers * heads); None without contacts."""
        bins = self.trunk(self.base.latents(batch), lengths(batch))
        return self.head.gates(bins, batch.edge_index, weight_named(batch, self.edge_weight))

    def inputs(self, batch: Data) -> dict[str, Tensor]:
        """Sequence as one-hot, (N, 4, L)."""
        return self.base.inputs(batch)

    def _expression(self, latents: Tensor, batch: Data) -> Tensor:
        sizes = lengths(batch)
        weight = weight_named(batch, self.edge_weight)
        return self.head(self.trunk(latents, sizes), sizes, batch.edge_index, weight)


def share_of_expression(epoch: int) -> float:
    """Share of expression in the loss of the end-to-end form.

    Parameters
    ----------
    epoch : int
        Counted from 0; the published formula counts from 1.

    Examples
    --------
    >>> [round(share_of_expression(epoch), 2) for epoch in (0, 7, 9, 11, 20)]
    [0.01, 0.12, 0.5, 0.88, 1.0]
    """
    return max(0.01, 1 / (1 + exp(-(epoch + 1 - 10))))


def _refuse_own(**options: Any) -> None:
    """Refuse options of a base where there is a trained one; ``tracks`` are told by the shards, and no wish."""
    defaults = inspect.signature(SequenceExpression).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise InputError(f"{name} is {value!r}, but form is 'separate': its base is trained; leave {name} out")


def _trained(base: str | Path | Mapping[str, Any] | None) -> SequenceTracks:
    """The first stage as it was trained, or without its weights."""
    if base is None:
        raise InputError("form is 'separate': want base, the folder of a run of the model seq-tracks")
    model = build(base["model"], **base["options"]) if isinstance(base, Mapping) else load_model(base)
    if not isinstance(model, SequenceTracks):
        said = base["model"] if isinstance(base, Mapping) else str(base)
        raise InputError(f"base {said!r} is a run of another model, want one of seq-tracks")
    return model
