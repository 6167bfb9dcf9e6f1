"""Numbers on axes and in words of figures."""

from __future__ import annotations

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

LOG_ABOVE = 8.0  # greatest over smallest value, from which on an axis is logarithmic
FEW_DECADES = 30.0
LARGE = 1e6


def wants_log(low: float, high: float) -> bool:
    """Whether values span so much that a logarithmic axis is needed to see the small ones; never with 0 or less."""
    return low > 0 and high > LOG_ABOVE * low


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers, as many as its span allows."""
    span = high / low
    steps = (1.0, 2.0, 5.0) if span < FEW_DECADES else (1.0, 3.0) if span < FEW_DECADES**2 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def in_figures(value: float) -> str:
    """A number in three figures, with a true minus; large ones with their power of ten.

    Examples
    --------
    >>> in_figures(-0.031234), in_figures(0.3), in_figures(1234.0), in_figures(4.6012e12)
    ('−0.0312', '0.300', '1,234', '4.60e12')
    """
    if abs(value) >= LARGE:
        text = f"{value:.2e}".replace("e+", "e")
    else:
        text = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")
