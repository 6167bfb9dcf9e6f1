import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enhancer_dask.errors import InputError
from enhancer_dask.graphs.windows import Window, in_bins, windows


@given(n_bins=st.integers(1, 400), size=st.integers(1, 60), data=st.data())
def test_windows__every_bin_counts_once_with_its_flanks(n_bins, size, data):
    step = data.draw(st.integers(1, size))
    flank, found = (size - step) // 2, windows(n_bins, size, step)
    counted = np.zeros(n_bins, dtype=int)
    for w in found:
        assert w.stop - w.start == min(size, n_bins)
        assert 0 <= w.start <= w.loss_start < w.loss_stop <= w.stop <= n_bins
        assert w.start == 0 or w.loss_start - w.start >= flank
        assert w.stop == n_bins or w.stop - w.loss_stop >= flank
        counted[w.loss_start : w.loss_stop] += 1
    assert (counted == 1).all()
    assert [w.start for w in found] == sorted({w.start for w in found})


def test_windows__those_of_epi_graphreg():
    found = windows(3_000, 1_200, 400)
    assert found[1] == Window(400, 1_600, 800, 1_200)
    assert len(found) == 6
    assert found[-1] == Window(1_800, 3_000, 2_400, 3_000)


def test_windows__what_makes_no_sense():
    with pytest.raises(InputError, match="6 bins every 7"):
        windows(10, 6, 7)
    with pytest.raises(InputError, match="window is 6000001 bp; want a multiple of the resolution, 5000 bp"):
        in_bins(6_000_001, 5_000, "window")
    assert in_bins(6_000_000, 5_000, "window") == 1_200
