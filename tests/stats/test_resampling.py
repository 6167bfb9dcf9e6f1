from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from enhancer_dask.stats.resampling import philox, resample_counts, stream_key


@pytest.mark.parametrize("n_cells", [1, 2, 5, 1000])
def test_resample_counts__row_is_the_same_alone_or_in_a_batch(n_cells):
    whole = resample_counts(n_cells, 0, 12, seed=7, celltype="B", rung=2)
    assert (whole.sum(axis=1) == n_cells).all()
    for r in range(12):
        np.testing.assert_array_equal(resample_counts(n_cells, r, r + 1, seed=7, celltype="B", rung=2)[0], whole[r])


def test_stream_key__differs_by_every_part():
    keys = {tuple(stream_key(s, t, k)) for s in range(3) for t in ("A", "B", "AB") for k in range(5)}
    assert len(keys) == 45
    assert tuple(stream_key(1, "1", 1)) != tuple(stream_key(11, "", 1))


@pytest.mark.parametrize("kernel", [philox, philox.py_func], ids=["numba", "python"])
@pytest.mark.parametrize(
    ("counter", "upper", "key", "want"),
    [  # the known answers that Random123 ships for philox4x32-10
        (0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, 2**64 - 1, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            *(0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox__gives_the_known_answers(kernel, counter, upper, key, want):
    out = np.empty((4, 1), dtype=np.uint64)
    kernel(np.uint64(counter), np.uint64(upper), np.uint64(key), out)
    assert tuple(out[:, 0]) == want


def test_resample_counts__are_multinomial():
    n, r = 200, 4000
    counts = resample_counts(n, 0, r, seed=0, celltype="A", rung=0).astype(float)
    total = counts.sum(axis=0)
    assert stats.chisquare(total).pvalue > 1e-4  # each cell equally often
    # one cell's count is Binomial(n, 1/n)
    observed = np.bincount(counts[:, 17].astype(int), minlength=5)[:5]
    expected = r * stats.binom.pmf(np.arange(5), n, 1 / n)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    # variance of a weighted sum: n * var(x), what the spread of bootstrap coefficients rests on
    x = np.sin(np.arange(n))
    assert np.var(counts @ x) / (n * x.var()) == pytest.approx(1, abs=5 * np.sqrt(2 / r))


def test_resample_counts__neighbours_and_streams_are_independent():
    n, r = 300, 3000
    x = np.cos(np.arange(n))
    streams = {
        "a": resample_counts(n, 0, r, seed=0, celltype="A", rung=0) @ x,
        "seed": resample_counts(n, 0, r, seed=1, celltype="A", rung=0) @ x,
        "type": resample_counts(n, 0, r, seed=0, celltype="B", rung=0) @ x,
        "rung": resample_counts(n, 0, r, seed=0, celltype="A", rung=1) @ x,
    }
    bound = 4.5 / np.sqrt(r)  # standard error of a correlation of independent series
    for lag in (1, 2, 3, 4, 7):
        assert abs(np.corrcoef(streams["a"][:-lag], streams["a"][lag:])[0, 1]) < bound
    for name in ("seed", "type", "rung"):
        assert abs(np.corrcoef(streams["a"], streams[name])[0, 1]) < bound
