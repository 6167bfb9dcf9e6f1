"""Polynomials in a few variables up to a total degree: the order of their terms, features of cells, values.

Term ``m`` is ``d ** a / a!`` with a feature ``z ** a`` as its coefficient per cell, ``a = exponents[m]``, so that the
sum over all terms is ``exp(d . z)`` cut off at the degree. A derivative by ``d_j`` has the same terms with the
features of ``raised``. Terms come by degree: those of a lower degree are a prefix.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Monomials(NamedTuple):
    """Terms of degree 0 to ``degree`` in c variables; M of them."""

    exponents: Ints
    """Shape (M, c)."""
    parent: Ints
    """Term from which a term comes by one more factor, shape (M,); 0 for term 0."""
    axis: Ints
    """That factor's variable, shape (M,)."""
    raised: Ints
    """Term with one more factor of variable j, shape (M', c) for the M' terms below the highest degree."""
    n_terms: Ints
    """Terms up to each degree, shape (degree + 1,)."""


@lru_cache(maxsize=32)
def monomials(n_variables: int, degree: int) -> Monomials:
    """The terms in ``n_variables`` up to a total degree.

    Examples
    --------
    >>> monomials(2, 2).exponents.tolist()
    [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    """
    terms = [
        tuple(np.bincount(factors, minlength=n_variables).tolist()) if factors else (0,) * n_variables
        for total in range(degree + 1)
        for factors in combinations_with_replacement(range(n_variables), total)
    ]
    index = {term: m for m, term in enumerate(terms)}

    def changed(term: tuple[int, ...], j: int, by: int) -> int:
        return index[(*term[:j], term[j] + by, *term[j + 1 :])]

    axis = [next((j for j in range(n_variables) if term[j]), 0) for term in terms]
    parent = [changed(term, j, -1) if any(term) else 0 for term, j in zip(terms, axis, strict=True)]
    raised = [[changed(term, j, 1) for j in range(n_variables)] for term in terms if sum(term) < degree]
    exponents = np.array(terms, dtype=np.int64).reshape(len(terms), n_variables)
    n_terms = np.array([np.count_nonzero(exponents.sum(axis=1) <= total) for total in range(degree + 1)])
    return Monomials(
        exponents,
        np.array(parent, dtype=np.int64),
        np.array(axis, dtype=np.int64),
        np.array(raised, dtype=np.int64).reshape(len(raised), n_variables),
        n_terms,
    )
