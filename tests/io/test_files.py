from __future__ import annotations

import os

import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.io.files import staged


def test_staged__file_is_there_whole_or_not_at_all(tmp_path):
    final = tmp_path / "sub" / "table.txt"
    with pytest.raises(RuntimeError), staged(final) as work:
        work.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with staged(final) as work:
        work.write_text("first")
        assert not final.exists()
    with pytest.raises(KeyboardInterrupt), staged(final) as work:
        work.write_text("second")
        raise KeyboardInterrupt
    assert final.read_text() == "first"
    assert [p.name for p in final.parent.iterdir()] == ["table.txt"]


def test_staged__folder_replaces_a_folder(tmp_path):
    final = tmp_path / "store"
    for content in ("old", "new"):
        with staged(final) as work:
            work.mkdir()
            (work / content).write_text(content)
    assert [p.name for p in final.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_staged__unwritable_folder_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(InputError, match=r"file/sub: cannot write to this folder"), staged(blocker / "sub" / "out"):
        raise AssertionError("not reached")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that even root cannot write to")
def test_staged__read_only_file_system_is_named():
    with pytest.raises(InputError, match="/proc/self: cannot write to this folder"), staged("/proc/self/out"):
        raise AssertionError("not reached")
