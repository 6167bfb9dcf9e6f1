"""What the commands ask of clusters."""

from __future__ import annotations

import json

import pytest

from enhancer_dask.cli.clusters import check
from enhancer_dask.cli.options import adapt_range
from enhancer_dask.errors import InputError


def test_cluster_check__prints_what_was_found(monkeypatch, capsys):
    asked = []

    def found(*args, say, timeout):
        asked.extend([*args, timeout])
        say("waiting for a worker")
        return {"cores": 4}

    monkeypatch.setattr("enhancer_dask.clusters.check.check", found)
    check("slurm", None, 60.0)
    told = capsys.readouterr()
    assert asked == ["slurm", None, 60.0]
    assert json.loads(told.out) == {"cores": 4}
    assert told.err == "waiting for a worker\n"


@pytest.mark.parametrize("text", ["3", "5:2", "0:0", "-1:4", "a:b", "1:2:3"])
def test_adapt_range__refuses(text):
    with pytest.raises(InputError, match="--adapt is .*; want MIN:MAX, for instance 0:50"):
        adapt_range(text)
