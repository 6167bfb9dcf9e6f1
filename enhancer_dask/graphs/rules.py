"""The rule that makes a contact an edge, from its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhancer_dask.errors import InputError

QUANTITIES = ("count", "balanced", "oe", "fdr", "distance")
TIE = 1e-9
_FORM = "want conditions like 'oe>1' joined by 'and', of count, balanced, oe, fdr, distance (bp) and top (as 'top<=20')"
_CONDITION = re.compile(r"(\w+)\s*(>=|<=|>|<)\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison."""

    quantity: str
    """One of ``QUANTITIES``."""
    operator: str
    """``>``, ``>=``, ``<`` or ``<=``."""
    threshold: float
    """Values within 1e-9 of it (relative) are equal to it."""

    def holds(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where the values satisfy the condition; never where they are NaN."""
        below, above = self.threshold * (1 - TIE), self.threshold * (1 + TIE)
        match self.operator:
            case ">":
                return np.asarray(values > above)
            case ">=":
                return np.asarray(values >= below)
            case "<":
                return np.asarray(values < below)
            case _:
                return np.asarray(values <= above)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a contact must satisfy to be an edge."""

    conditions: tuple[Condition, ...]
    """All must hold."""
    top: int | None = None
    """Of the contacts left, those that are among the ``top`` highest O/E of either end; None for all."""

    @property
    def quantities(self) -> frozenset[str]:
        """What the conditions compare."""
        return frozenset(condition.quantity for condition in self.conditions)


def parse_rule(text: str) -> Rule:
    """Read a rule such as ``oe>1 and distance<=2000000``.

    Parameters
    ----------
    text : str
        Conditions joined by ``and``: a quantity, one of ``> >= < <=``, and a number from 0. Quantities are count,
        balanced (count times both weights), oe (balanced over expected), fdr (of the contact, within its chromosome)
        and distance (between the starts of two bins of a chromosome, in bp; contacts between chromosomes pass).
        ``top<=k`` keeps a contact that is among the k of highest oe of either end, of those that pass the rest; equal
        oe goes by the number of the neighbour.

    Returns
    -------
    Rule

    Raises
    ------
    InputError
        If a condition is not of this form; shows it and what is known.

    Notes
    -----
    Values within a relative 1e-9 of a threshold count as equal to it, so that rounding does not decide ties, which do
    occur where only one pair of bins exists at a separation: ``oe>1`` is oe > 1 + 1e-9, ``oe>=1`` is oe >= 1 - 1e-9.

    Examples
    --------
    >>> parse_rule("oe>1 and top<=20")
    Rule(conditions=(Condition(quantity='oe', operator='>', threshold=1.0),), top=20)
    """
    conditions, top = [], None
    for part in re.split(r"\s+and\s+", text.strip()):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise InputError(f"rule {text!r}: cannot read {part!r}; {_FORM}")
        quantity, operator, number = match.groups()
        threshold = _threshold(number)
        if quantity == "top" and top is None and operator == "<=" and threshold >= 1 and threshold.is_integer():
            top = int(threshold)
        elif quantity in QUANTITIES and threshold >= 0:
            conditions.append(Condition(quantity, operator, threshold))
        else:
            raise InputError(f"rule {text!r}: cannot use {part!r}; {_FORM}")
    return Rule(tuple(conditions), top)


def _threshold(number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        return -1.0  # refused, as any negative number
    return value if np.isfinite(value) else -1.0
