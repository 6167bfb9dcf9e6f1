"""A store on a file system that cannot be written to."""

from __future__ import annotations

import os
import subprocess

import pandas as pd
import pytest

from enhancer_dask import epistasis, scent
from enhancer_dask.interactions.census import census
from enhancer_dask.stats.bootstrap import up_to
from enhancer_dask.stores import open_store


@pytest.fixture
def read_only(store, tmp_path):
    """The folder of the simulated store, mounted read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = _mount("mount", "--bind", str(store.parent), str(folder))
    if done is None:
        done = _mount("mount", "-o", "remount,bind,ro", str(folder))
        if done is not None:
            _mount("umount", str(folder))
    if done is not None:
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(done)
        pytest.skip(done)
    yield folder / store.name
    assert _mount("umount", str(folder)) is None


def _mount(*command):
    """Run it; why it failed, None if it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as err:
        return str(err)
    return None if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()}"


def test_stages__read_a_store_that_cannot_be_written_to(read_only, store, pairs, client, tmp_path):
    with pytest.raises(OSError, match="Read-only file system"):
        (read_only / "new").write_text("x")
    before = {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")}
    links = pd.read_parquet(pairs).iloc[:40]
    gene = links["gene"].value_counts().index[0]
    peaks = links.loc[links["gene"] == gene, "peak"].to_numpy()[:3]
    table = pd.DataFrame(
        [(gene, peaks[0], peaks[1]), (gene, peaks[1], peaks[2])], columns=["gene", "enhancer_1", "enhancer_2"]
    )
    for stage, rows in ((scent, links), (census, table), (epistasis, table)):
        settings = {} if stage is census else {"ladder": up_to(100)}
        found = stage(
            read_only, rows, celltype="A", client=client, progress=False, out=tmp_path / "a.parquet", **settings
        )
        wanted = stage(store, rows, celltype="A", client=client, progress=False, **settings)
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)
        (tmp_path / "a.parquet").unlink()
    open_store(read_only)
    assert {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")} == before
