from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from enhancer_dask.errors import InputError
from enhancer_dask.interactions.layouts import as_glimmirs, as_published
from enhancer_dask.report.columns import our_names


@pytest.fixture
def published(shared):
    return pd.read_csv(shared / "published" / "nyu_cd14_mono" / "epistasis_results.csv.gz")


def test_as_published__gives_the_published_table_back(published):
    ours = our_names(published)
    assert ours.columns.tolist()[3:8] == ["intercept_10", "beta_10", "p_10", "boot_p_10", "intercept_01"]
    legacy = ours.assign(celltype="CD14-Mono", n_00=1, coding="legacy")
    pd.testing.assert_frame_equal(as_published(legacy), published, check_exact=True)
    fixed = legacy.assign(beta_11=2.0 * legacy["beta_11"], coding="fixed")
    pd.testing.assert_frame_equal(as_published(fixed), published, check_exact=True)


@pytest.mark.parametrize("layout", [as_published, as_glimmirs])
def test_layouts__have_no_column_for_cell_types(published, layout):
    with pytest.raises(InputError, match="2 cell types, and this layout has no column for them"):
        layout(our_names(published).assign(celltype=["A", *["B"] * 2_862], coding="legacy"))


def test_as_glimmirs__has_its_columns_with_wald_p():
    table = pd.DataFrame({"celltype": "A", "gene": ["g", "h"], "enhancer_1": ["a", "b"], "enhancer_2": ["c", "d"]})
    terms = {
        "joint_intercept": (-2.0, 0.1), "joint_10": (0.5, 0.2), "joint_01": (-0.4, 0.3), "joint_11": (9.0, 9.0),
        "joint_percent.mito": (1.5, 0.5), "beta_interaction": (0.3, 0.15),
    }  # fmt: skip
    for name, (beta, se) in terms.items():
        table[name], table[f"se_{name.removeprefix('beta_')}"] = [beta, np.nan], [se, np.nan]
    found = as_glimmirs(table)
    names = ["intercept", "enhancer.1", "enhancer.2", "interaction", "percent.mito"]
    want = ["enhancer.1.list", "enhancer.2.list", "gene.list"]
    want += [f"{name}.{kind}" for name in names for kind in ("effects", "pvalues")]
    assert found.columns.tolist() == want
    assert found.iloc[0, :3].tolist() == ["a", "c", "g"]
    for name, ours in zip(
        names, ["joint_intercept", "joint_10", "joint_01", "beta_interaction", "joint_percent.mito"], strict=True
    ):
        beta, se = terms[ours]
        assert found[f"{name}.effects"][0] == beta
        assert found[f"{name}.pvalues"][0] == pytest.approx(2 * norm.sf(abs(beta) / se), rel=1e-12)
    assert found.iloc[1, 3:].isna().all()
    with pytest.raises(InputError, match="column 'se_joint_10' is missing"):
        as_glimmirs(table.drop(columns="se_joint_10"))
