"""A model as a column of blocks, one for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from enhancer_dask.report.style import BLUE, DARK, GREEN, GREY, ORANGE, PURPLE, SKY, house_style, say_empty

Layer = tuple[str, Sequence[int], int]  # name, output shape, parameters

KINDS = {  # word of a layer's name -> what it is; the first that fits
    "attention": ("messages along edges", ORANGE),
    "gat": ("messages along edges", ORANGE),
    "gcn": ("messages along edges", ORANGE),
    "graph": ("messages along edges", ORANGE),
    "messag": ("messages along edges", ORANGE),
    "edge": ("messages along edges", ORANGE),
    "general": ("messages along edges", ORANGE),
    "norm": ("normalisation", PURPLE),
    "conv": ("convolution", SKY),
    "pool": ("pooling", GREEN),
    "linear": ("linear", BLUE),
    "ridge": ("linear", BLUE),
}
OTHER = ("other", GREY)
BLOCK, GAP, WIDTH = 0.26, 0.14, 2.3  # inches


@dataclass(frozen=True, slots=True)
class Block:
    """A layer, or several in a row that repeat."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    """Of the output of the last."""
    parameters: int
    """Of all repeats."""
    times: int = 1

    @property
    def text(self) -> str:
        """What stands in the block."""
        return " · ".join(self.names) + (f"  × {self.times}" if self.times > 1 else "")


def blocks(layers: Sequence[Layer], longest: int = 4) -> list[Block]:
    """Layers as blocks; what repeats with the same output shapes is one block.

    Parameters
    ----------
    layers : sequence of (name, output shape, parameters)
    longest : int
        Layers of a repeat, at most.

    Examples
    --------
    >>> five = [("norm", (64, 1000), 0), ("conv", (64, 1000), 12_352), ("ReLU", (64, 1000), 0)] * 5
    >>> blocks([("conv", (64, 1000), 256), *five, ("conv", (1, 1000), 65)])[1]
    Block(names=('norm', 'conv', 'ReLU'), shape=(64, 1000), parameters=61760, times=5)
    """
    keys = [(name, tuple(shape)) for name, shape, _ in layers]
    made: list[Block] = []
    at = 0
    while at < len(layers):
        size, times = _repeat(keys, at, longest)
        mine = layers[at : at + size * times]
        names = tuple(name for name, _, _ in mine[:size])
        made.append(Block(names, tuple(mine[-1][1]), sum(n for _, _, n in mine), times))
        at += size * times
    return made


def _repeat(keys: Sequence[tuple[str, tuple[int, ...]]], at: int, longest: int) -> tuple[int, int]:
    """Layers from here that repeat, and how often: what saves most blocks; (1, 1) if nothing does."""
    best = (1, 1)
    for size in range(1, longest + 1):
        times = 1
        while keys[at + size * times : at + size * (times + 1)] == keys[at : at + size] and at + size <= len(keys):
            times += 1
        if times > 1 and size * times > best[0] * best[1]:
            best = (size, times)
    return best


@house_style
def architecture(layers: Sequence[Layer], figure: Figure, *, title: str = "") -> Figure:
    """A diagram of a model: blocks from the input at the top to the output below.

    Parameters
    ----------
    layers : sequence of (name, output shape, parameters)
        In the order of the computation; the input may be the first, with 0 parameters.
    figure : Figure
        Empty; its size is set to what the blocks need.
    title : str
        Name of the model; the sum of the parameters is added.

    Returns
    -------
    Figure
        Right of a block its output shape, left its parameters. Colour tells the kind of layer, guessed from its name.
    """
    ax = figure.subplots()
    made = blocks(layers)
    if not made:
        say_empty(ax, f"{title or 'model'}: no layers")
        return figure
    step = BLOCK + GAP
    figure.set_size_inches(4.6, step * len(made) + 0.95)
    for i, block in enumerate(made):
        _block(ax, block, -i * step)
        if i:
            _arrow(ax, -i * step + GAP)
    ax.set(xlim=(-2.25, 2.25), ylim=(-step * len(made) + GAP - 0.05, 0.34), aspect="equal")
    ax.set_axis_off()
    _heads(ax)
    total = f"{sum(n for _, _, n in layers):,} parameters"
    ax.set_title(f"{title}: {total}" if title else total, fontweight="bold")
    _legend(figure, made)
    return figure


def _kind(block: Block) -> tuple[str, str]:
    """Kind and colour: of the first name that tells messages, else of the last one that tells anything but a norm."""
    found = [kind for name in block.names for word, kind in KINDS.items() if word in name.lower()]
    ranked = sorted(found, key=lambda kind: [k for k, _ in dict.fromkeys(KINDS.values())].index(kind[0]))
    heavy = [kind for kind in ranked if kind[0] != "normalisation"]
    return next(iter(heavy or ranked), OTHER)


def _block(ax: Axes, block: Block, top: float) -> None:
    kind, colour = _kind(block)
    box = FancyBboxPatch(
        (-WIDTH / 2, top - BLOCK), WIDTH, BLOCK, boxstyle="round,pad=0,rounding_size=0.05", facecolor=(colour, 0.3),
        edgecolor=colour, linewidth=1.0, label=kind,
    )  # fmt: skip
    ax.add_patch(box)
    middle = top - BLOCK / 2
    ax.text(0, middle, block.text, ha="center", va="center", fontsize=_size(block.text))
    ax.text(WIDTH / 2 + 0.12, middle, " × ".join(f"{n:,}" for n in block.shape), va="center", color=DARK, fontsize=7.5)
    count = f"{block.parameters:,}" if block.parameters else "–"
    ax.text(-WIDTH / 2 - 0.12, middle, count, ha="right", va="center", color=DARK, fontsize=7.5)


def _size(text: str) -> float:
    """Points that let a text fit into a block."""
    return min(8.0, 8.0 * 36 / max(len(text), 1))


def _arrow(ax: Axes, top: float) -> None:
    arrow = FancyArrowPatch((0, top), (0, top - GAP), arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0)
    arrow.set(color=DARK, linewidth=0.8)
    ax.add_patch(arrow)


def _heads(ax: Axes) -> None:
    for x, text, side in ((WIDTH / 2 + 0.12, "output", "left"), (-WIDTH / 2 - 0.12, "parameters", "right")):
        ax.text(x, 0.12, text, ha=side, va="bottom", color=GREY, fontsize=7.5)


def _legend(figure: Figure, made: list[Block]) -> None:
    kinds = dict.fromkeys(_kind(block) for block in made)
    patches = [
        FancyBboxPatch((0, 0), 1, 1, boxstyle="square,pad=0", facecolor=(c, 0.3), edgecolor=c, label=k)
        for k, c in kinds
        if (k, c) != OTHER
    ]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=4, handlelength=1.0)
