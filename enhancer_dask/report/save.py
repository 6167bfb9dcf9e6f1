"""Write figures, the same bytes for the same figure."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from enhancer_dask.io.files import staged
from enhancer_dask.report.style import house_style

DPI = 200
# without the date and the version of matplotlib
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@house_style
def save(figure: Figure, path_without_ending: str | Path) -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG (text as text), each whole or not at all.

    Parameters
    ----------
    figure : Figure
    path_without_ending : path
        ``.png`` and ``.svg`` are added; its folder is made if needed.

    Returns
    -------
    list of Path
        The two files.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    files = []
    for kind, metadata in METADATA.items():
        file = Path(f"{path_without_ending}.{kind}")
        with staged(file) as work:
            figure.savefig(work, format=kind, dpi=DPI, metadata=metadata)
        files.append(file)
    return files
