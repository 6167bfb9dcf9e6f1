"""Weights of bins, in one place: ICE, Knight-Ruiz and vanilla coverage, and one function for all."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.iterative import MAD_MAX, MIN_NNZ, balance_ice
from enhancer_dask.graphs.iterative import ice as ice
from enhancer_dask.graphs.knight_ruiz import balance_kr
from enhancer_dask.graphs.knight_ruiz import kr as kr
from enhancer_dask.graphs.vanilla import vc as vc
from enhancer_dask.graphs.vanilla import vc_sqrt as vc_sqrt
from enhancer_dask.graphs.weights import Balance as Balance
from enhancer_dask.graphs.weights import BalanceWarning as BalanceWarning
from enhancer_dask.graphs.weights import Method, check_matrix


def balance(matrix: Any, method: Method, *, chromosomes: ArrayLike | None = None) -> Balance:
    """Weights of bins by the name of the method, with what was dropped, and why to doubt them instead of a warning.

    Parameters
    ----------
    matrix : sparse matrix, shape (bins, bins)
        Symmetric counts, both triangles, a contact of a bin with itself once.
    method : {"ice", "kr", "vc", "vc_sqrt", "none"}
        ``ice`` with the defaults of :func:`ice`; ``kr`` with the same filters of bins (``min_nnz``, ``mad_max``), or
        without them if they would leave none; ``none`` gives ones for all bins.
    chromosomes : array, shape (bins,), or None
        Chromosome of each bin, for the filters; None if all are of one.

    Returns
    -------
    Balance

    Raises
    ------
    InputError
        If the method is unknown or the matrix is not sparse, square, symmetric, finite and non-negative.
    NoBalanceError
        If Knight-Ruiz weights are not found.
    """
    match method:
        case "ice":
            return balance_ice(matrix, chromosomes=chromosomes)
        case "kr":
            found = balance_kr(matrix, chromosomes=chromosomes, min_nnz=MIN_NNZ, mad_max=MAD_MAX)
            return balance_kr(matrix) if np.isnan(found.weights).all() else found
        case "vc" | "vc_sqrt":
            weights = (vc if method == "vc" else vc_sqrt)(matrix)
            return Balance(weights, method, {"empty": np.flatnonzero(np.isnan(weights))}, 0, True)
        case "none":
            return Balance(np.ones(check_matrix(matrix).shape[0]), method, {}, 0, True)
        case _:
            raise InputError(f"balance: method {method!r} is unknown, want one of {', '.join(get_args(Method))}")
