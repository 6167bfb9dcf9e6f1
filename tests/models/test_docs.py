"""What docs/models.md says of the models is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_geometric")

from enhancer_dask.models.registry import SPECS, build, n_parameters

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_table_of_models__has_all_and_their_parameters():
    rows = re.findall(r"^\| ((?:`[a-z0-9-]+`(?:, )?)+) \| .* \| ([\d,]+) \|$", PAGE, flags=re.MULTILINE)
    told = {name: int(n.replace(",", "")) for names, n in rows for name in re.findall(r"`([^`]+)`", names)}
    # other files of tests add models of their own to the same process
    assert told == {name: n_parameters(build(name)) for name, one in SPECS.items() if one.summary != "for tests"}
