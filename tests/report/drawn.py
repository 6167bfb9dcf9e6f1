"""What a figure holds, for tests to look at."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import StepPatch

N, RESOLUTION = 300, 5_000
CNN = [
    ("conv", (64, N), 256),
    *[("norm", (64, N), 0), ("conv", (64, N), 100), ("ReLU", (64, N), 0)] * 5,
    ("head", (1, N), 65),
]


def in_mb(table):
    start = 2_000_000 + table["node"] * RESOLUTION
    return table.assign(chrom="chr7", start=start, end=start + RESOLUTION)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(owner):
    found = owner.get_legend() if hasattr(owner, "get_legend") else owner.legends[0]
    return [text.get_text() for text in found.get_texts()]


def arcs(ax):
    """Ends of each arc, shape (K, 2), and the collection."""
    (found,) = (c for c in ax.collections if isinstance(c, LineCollection) and c.get_label() == "contacts")
    segments = np.array(found.get_segments())
    return segments[:, [0, -1], 0], found


def drawn_texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def steps_of(ax, label=None):
    (found,) = (p for p in ax.patches if isinstance(p, StepPatch) and label in (None, p.get_label()))
    return found.get_data()


def curve(ax, label):
    (line,) = (line for line in ax.get_lines() if line.get_label() == label)
    return line


def stems(files):
    assert all(file.is_file() and file.stat().st_size > 1_000 for file in files)
    names = sorted(file.stem for file in files if file.suffix == ".png")
    assert names == sorted(file.stem for file in files if file.suffix == ".svg")
    return names
