"""Chunks cut into pieces, and their memory as a function of their shape: the four works."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from enhancer_dask.interactions import census as census_stage
from enhancer_dask.interactions import work as epistasis_work
from enhancer_dask.interactions.contrasts import Options as StateOptions
from enhancer_dask.interactions.memory import census_bytes, epistasis_bytes
from enhancer_dask.interactions.rows import PairRows
from enhancer_dask.links import work as links_work
from enhancer_dask.links.memory import Cells, scent_bytes
from enhancer_dask.links.pair_tests import Options
from enhancer_dask.stats.bootstrap import up_to
from enhancer_dask.stores import MultiomeStore

COVARIATES = ("log(nUMI)", "percent.mito")
LADDER = up_to(500)


@pytest.fixture(scope="module")
def data(store):
    return MultiomeStore(store)


@pytest.fixture(scope="module")
def tested(data, pairs):
    return pd.read_parquet(pairs).iloc[:60]


def scent_work(data, pairs, folder, **options):
    settings = Options(ladder=LADDER, min_fraction=0.02, **options)
    request = links_work.make_request(data, pairs, ["A", "B"], covariates=COVARIATES, offset=None, options=settings)
    return links_work.plan(request, folder, 25)


def certify_work(data, pairs, folder):
    request = links_work.make_request(data, pairs, ["A"], covariates=COVARIATES, offset=None, options=Options())
    rows = np.array([0, 3, 4, 9, 20])
    return links_work.plan_certificate(request, rows, links_work.Certify(5, n_resamples=200), folder)


def rows_of_pairs(data, pairs):
    peaks = data.rows_of("peak", pairs["peak"])
    gene = data.rows_of("gene", pairs["gene"])
    return PairRows("A", gene[:-1], peaks[:-1], peaks[1:])


def epistasis_work_of(data, pairs, folder, **options):
    names = ("log(nUMI)", "percent.mito", "batch=x")  # the last one as if another cell type had it
    request = epistasis_work.Request(
        data.path, data.fingerprint, (rows_of_pairs(data, pairs),), COVARIATES, names, None,
        StateOptions(ladder=LADDER, **options),
    )  # fmt: skip
    return epistasis_work.plan(request, folder, 20)


def census_work(data, pairs, folder):
    return census_stage.plan(data, [rows_of_pairs(data, pairs)], 8, {}, folder, 20)


WORKS = {
    "scent": scent_work,
    "scent exact": lambda *args: scent_work(*args, engine="exact"),
    "scent saddle": lambda *args: scent_work(*args, p="saddle"),
    "scent ladder": lambda *args: scent_work(*args, p="ladder"),
    "certify": certify_work,
    "epistasis": epistasis_work_of,
    "epistasis saddle, expected": lambda *args: epistasis_work_of(*args, p="saddle", expected=20),
    "epistasis exact": lambda *args: epistasis_work_of(*args, engine="exact"),
    "census": census_work,
}


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
def test_split__pieces_give_the_table_of_the_chunk_bit_for_bit(make, data, tested, tmp_path):
    work = make(data, tested, tmp_path)
    args = work.arguments(0)
    whole = work.task(*args)
    for n_pieces in (1, 3, int(np.random.default_rng(len(whole)).integers(4, 20)), 10_000):  # the last: rows one by one
        pieces = work.split(args, n_pieces)
        assert 1 <= len(pieces) <= n_pieces
        tables = [work.task(*piece) for piece in pieces]
        if n_pieces == 10_000 and make is not census_work:
            assert [len(table) for table in tables] == [1] * len(whole)
        for table in tables:
            assert table.dtypes.equals(whole.dtypes)
        pd.testing.assert_frame_equal(
            pd.concat(tables, ignore_index=True), whole.reset_index(drop=True), check_exact=True
        )


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
def test_split__is_pure_and_every_work_has_an_estimate(make, data, tested, tmp_path):
    work = make(data, tested, tmp_path)
    args = work.arguments(work.n_chunks - 1)
    again = [repr(piece) for piece in work.split(args, 4)]
    assert [repr(piece) for piece in work.split(args, 4)] == again
    sizes = [work.nbytes(piece) for piece in work.split(args, 4)]
    assert 0 < max(sizes) <= work.nbytes(args)


def test_bytes__grow_with_what_takes_memory():
    cells = Cells(50_000, 2, 0, 2, 1, np.full(64, 5_000))
    gene, peak = np.repeat(np.arange(4), 16), np.arange(64)
    rows = PairRows("A", gene, peak, (peak + 1) % 64)
    plain, states = Options(ladder=LADDER), StateOptions(ladder=LADDER)
    whole, half = scent_bytes(gene, peak, cells, plain), slice(None, 32)
    assert scent_bytes(gene[half], peak[half], cells, plain) < whole
    assert scent_bytes(gene, peak, replace(cells, n=10_000), plain) < whole
    assert scent_bytes(gene, peak, cells, Options(ladder=LADDER, engine="exact")) < whole
    assert scent_bytes(gene, peak, replace(cells, open_cells=cells.open_cells * 4), plain) > whole
    assert epistasis_bytes(rows.some(half), cells, states) < epistasis_bytes(rows, cells, states)
    assert epistasis_bytes(rows, cells, replace(states, expected=20_000)) > epistasis_bytes(rows, cells, states)
    assert census_bytes(rows.some(slice(None, 16)), cells) <= census_bytes(rows, cells)
