from __future__ import annotations

import os
import shutil
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client, LocalCluster
from scipy import stats

from enhancer_dask import chunks
from enhancer_dask.chunks import merging
from enhancer_dask.errors import ChunkError, InputError, ResumeError
from enhancer_dask.links import scent as module
from enhancer_dask.links import work
from enhancer_dask.links.certificate import agreement
from enhancer_dask.links.pair_tests import Options, scent_block
from enhancer_dask.links.scent import scent, summary
from enhancer_dask.links.work import COLUMNS, benjamini_hochberg, block_bounds
from enhancer_dask.stats.bootstrap import Rung, up_to

SHORT = up_to(500)


@pytest.fixture(scope="module")
def whole(store, pairs):
    """The undisturbed table of the simulated store, ladder to 2,500."""
    return scent(store, pairs, ladder=up_to(2_500), seed=5, progress=False)


def test_scent__wald_matches_r_glm(oracle, shared, tiles_store):
    # oracle, R: glm(exprs ~ atac + log(nUMI) + percent.mito, family = poisson)
    want = oracle("poisson_glm")
    links = scent(
        tiles_store, shared / "data" / "pbmc_tiles_pairs.csv.gz", celltype=["CD14+ Monocytes", "CD4 Memory"],
        ladder=up_to(100), progress=False,
    )  # fmt: skip
    assert len(links) == 2 * 3325
    tested = links[links["status"] == "tested"]
    both = want.merge(tested, on=["celltype", "gene", "peak"], suffixes=("_r", ""), how="outer", indicator=True)
    assert (both["_merge"] == "both").all()  # the 5% rule chooses exactly R's rows
    np.testing.assert_allclose(both["beta"], both["beta_r"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(both["se"], both["se_r"], rtol=1e-5)
    np.testing.assert_allclose(both["z"], both["z_r"], rtol=1e-5)
    np.testing.assert_allclose(np.log10(both["p"]), np.log10(both["p_r"]), rtol=0, atol=1e-4)
    np.testing.assert_allclose(both["fraction_expressed"], both["nonzero_rna"])
    np.testing.assert_allclose(both["fraction_open"], both["nonzero_atac"])
    assert (both["n_cells"] == both["n_cells_r"]).all()


def test_scent__bootstrap_p_agree_with_scent_in_r(oracle, tiles_store):
    """Two Monte-Carlo values of one p: z = difference / sqrt(p (2 - p) (1 / R1 + 1 / R2)), each and in sum."""
    want = oracle("scent_bootstrap_p")
    z = []
    for cap, rows in want.groupby("max_R"):
        links = scent(
            tiles_store, rows[["gene", "peak"]], celltype="CD14+ Monocytes", ladder=up_to(cap), seed=1, progress=False
        )
        both = rows.merge(links, on=["celltype", "gene", "peak"], suffixes=("_r", ""))
        assert len(both) == len(rows)
        pooled = (both["boot_basic_p"] * both["n_resamples"] + both["boot_basic_p_r"] * both["R_last_stage"]) / (
            both["n_resamples"] + both["R_last_stage"]
        )
        variance = pooled * (2 - pooled) * (1 / both["n_resamples"] + 1 / both["R_last_stage"])
        z.extend((both["boot_basic_p"] - both["boot_basic_p_r"]) / np.sqrt(variance))
    assert len(z) == 40
    assert np.abs(z).max() < 4.5  # 40 two-sided tests at 7e-6
    # a test at p = 1 folds and at the floor 2 / R ties, so the sum can only be smaller than chi-square(40)
    assert stats.chi2.sf(np.sum(np.square(z)), 40) > 1e-4


def test_scent__reaches_the_last_rung(oracle, tiles_store):
    # HLA-DQB1 ~ chr6-32473500-32474000: p < 2e-6 by a million resamples, so the full ladder must end at its floor
    million = oracle("bootstrap_million").iloc[:1]
    assert million["k"].item() == 0
    links = scent(tiles_store, million[["gene", "peak"]], celltype="CD14+ Monocytes", progress=False)
    assert links["n_resamples"].item() == 50_000
    assert links["boot_basic_p"].item() == 2 / 50_000


def test_scent_block__every_pair_says_why():
    rng = np.random.default_rng(0)
    n = 200
    rna, atac = np.zeros((4, n), int), np.zeros((4, n), int)
    rna[0] = rng.poisson(1.0, n)
    rna[1, :5] = 1  # expressed in 2.5%
    rna[2, :10] = 1  # exactly 5%: not more than 5%
    rna[3, n // 2 :] = 1 + rng.poisson(1.0, n // 2)
    atac[0] = rng.poisson(1.0, n)
    atac[1, : n // 2] = 1
    atac[2, :10] = 3
    atac[3] = 1
    gene, peak = np.array([0, 1, 2, 0, 1, 3, 0]), np.array([0, 0, 0, 2, 2, 1, 3])
    table = scent_block(rna, atac, gene, peak, rng.normal(size=(n, 1)), celltype="x", options=Options(ladder=SHORT))
    assert table["status"].tolist() == [
        "tested", "gene below 5%", "gene below 5%", "peak below 5%", "gene and peak below 5%", "separated",
        "peak open in all cells",
    ]  # fmt: skip
    tested = (table["status"] == "tested").to_numpy()
    assert table.loc[tested, ["beta", "se", "z", "p", "boot_basic_p"]].notna().all(axis=None)
    assert table.loc[~tested, ["se", "z", "p", "boot_basic_p"]].isna().all(axis=None)
    assert table["beta"][5] == -np.inf
    assert (table["n_resamples"] > 0).tolist() == tested.tolist()
    assert table["fraction_expressed"][2] == 0.05
    wider = scent_block(
        rna, atac, gene, peak, rng.normal(size=(n, 1)), celltype="x", options=Options(ladder=SHORT, min_fraction=0.1)
    )
    assert wider["status"][2] == "gene below 10%"


def test_scent_block__counts_instead_of_open_or_closed():
    rng = np.random.default_rng(1)
    atac = rng.poisson(1.0, (1, 300))
    rna = rng.poisson(np.exp(0.3 * atac))
    one = np.array([0])
    kept = scent_block(
        rna, atac, one, one, np.empty((300, 0)), celltype="x", options=Options(binarise=False, ladder=SHORT)
    )
    cut = scent_block(rna, atac, one, one, np.empty((300, 0)), celltype="x", options=Options(ladder=SHORT))
    assert kept["beta"].item() == pytest.approx(0.3, abs=4 * kept["se"].item())
    assert cut["beta"].item() == pytest.approx(np.log(rna[atac > 0].mean() / rna[atac == 0].mean()), abs=1e-8)


def test_scent_block__collinear_covariates_are_said():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(100, 1))
    one = np.array([0])
    table = scent_block(
        rng.poisson(1.0, (1, 100)), rng.poisson(1.0, (1, 100)), one, one, np.hstack([z, 2 * z]), celltype="x"
    )
    assert table["status"].tolist() == ["collinear covariates"]


def test_scent__table_has_every_candidate_once_in_order(whole, pairs, store):
    assert list(whole.columns) == list(COLUMNS)
    candidates = pd.read_parquet(pairs)
    assert len(whole) == 2 * len(candidates)
    for celltype in ("A", "B"):
        mine = whole[whole["celltype"] == celltype]
        assert mine["gene"].tolist() == candidates["gene"].tolist()
        assert mine["peak"].tolist() == candidates["peak"].tolist()
        np.testing.assert_array_equal(mine["distance_bp"], candidates["distance_bp"])
        np.testing.assert_array_equal(mine["fdr"], benjamini_hochberg(mine["boot_basic_p"].to_numpy()))
    assert set(whole["status"]) >= {"tested", "peak below 5%"}


@pytest.fixture(scope="module")
def clients(client):
    """Two worker processes, one worker process, threads of this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as one,
        LocalCluster(processes=False, n_workers=1, threads_per_worker=3, dashboard_address=":0") as threads,
        Client(one, set_as_default=False) as single,
        Client(threads, set_as_default=False) as threaded,
    ):
        yield {"two": client, "one": single, "threads": threaded}


@pytest.mark.parametrize("workers", ["two", "one", "threads"])
@pytest.mark.parametrize("chunk_pairs", [1, 7, 1000])
def test_scent__does_not_depend_on_chunks_or_workers(store, pairs, clients, chunk_pairs, workers):
    some = pd.read_parquet(pairs).iloc[20:60]
    settings = {"ladder": SHORT, "seed": 5, "progress": False}
    table = scent(store, some, **settings, chunk_pairs=chunk_pairs, client=clients[workers])
    reference = scent(store, some.sample(frac=1, random_state=0), **settings)
    pd.testing.assert_frame_equal(table, reference, check_exact=True)


def test_scent__seed_matters_and_repeats(store, pairs, whole):
    some = pd.read_parquet(pairs).iloc[:10]
    a, b, c = (scent(store, some, celltype="A", ladder=SHORT, seed=s, progress=False) for s in (5, 5, 6))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert (a["boot_basic_p"].dropna() != c["boot_basic_p"].dropna()).any()
    np.testing.assert_array_equal(a["beta"], c["beta"])


def test_scent__accepts_a_mudata(tiles, tiles_store, oracle):
    some = oracle("poisson_glm").query("celltype == 'CD14+ Monocytes'").iloc[:5][["gene", "peak"]]
    settings = {"celltype": "CD14+ Monocytes", "ladder": SHORT, "progress": False}
    pd.testing.assert_frame_equal(
        scent(tiles, some, **settings), scent(tiles_store, some, **settings), check_exact=True
    )


def test_scent__worker_killed_in_mid_run(store, pairs, whole, client, tmp_path):
    out = tmp_path / "links.parquet"
    victim = next(iter(client.run(os.getpid).values()))

    def kill():
        while len(list((tmp_path / "links.parquet.parts").glob("part-*"))) < 5:
            time.sleep(0.02)
        os.kill(victim, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    links = scent(store, pairs, ladder=up_to(2_500), seed=5, out=out, chunk_pairs=4, client=client, progress=False)
    assert victim not in client.run(os.getpid).values()
    pd.testing.assert_frame_equal(links, whole, check_exact=True)
    assert [p.name for p in tmp_path.iterdir()] == ["links.parquet"]


def test_scent__a_damaged_chunk_is_named_and_the_others_are_kept(store, pairs, tmp_path, client):
    broken = tmp_path / "broken.zarr"
    shutil.copytree(store, broken)
    (broken / "rna" / "c" / "0" / "0").unlink()  # Zarr reads a missing chunk as zeros
    with pytest.raises(ChunkError, match=r"chunks failed.*a chunk of 'rna' is damaged or missing: gene 'GENE1'"):
        scent(broken, pairs, celltype="A", ladder=SHORT, out=tmp_path / "links.parquet", progress=False, client=client)
    assert not (tmp_path / "links.parquet").exists()


def test_scent__refuses_other_parameters_or_another_store(store, pairs, tmp_path, simulated):
    out = tmp_path / "links.parquet"
    settings = {"celltype": "A", "ladder": SHORT, "out": out, "progress": False}
    first = scent(store, pairs, **settings)
    pd.testing.assert_frame_equal(scent(store, pairs, **settings, chunk_pairs=3), first)  # done: the cut is no matter
    with pytest.raises(ResumeError, match="'seed' is 0 there, 1 asked for"):
        scent(store, pairs, **settings, seed=1)
    with pytest.raises(ResumeError, match="'covariates' is"):
        scent(store, pairs, **settings, covariates="log(nUMI)")
    other = tmp_path / "other.zarr"
    module.ingest(simulated["multiome"], other)
    with pytest.raises(ResumeError, match="'store' is"):
        scent(other, pairs, **{**settings, "celltype": "all"})
    assert len(scent(store, pairs, **settings, seed=1, overwrite=True)) == len(first)


def test_scent__refuses_to_mix_parts(store, pairs, tmp_path, monkeypatch):
    out = tmp_path / "links.parquet"
    settings = {"celltype": "A", "ladder": SHORT, "out": out, "progress": False}

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(chunks, "merge", stop)
    with pytest.raises(KeyboardInterrupt):
        scent(store, pairs, **settings, chunk_pairs=8)
    monkeypatch.undo()
    with pytest.raises(ResumeError, match="'seed' is 0 there, 2 asked for"):
        scent(store, pairs, **settings, seed=2)
    with pytest.raises(ResumeError, match="'chunk_pairs' is 8 there, 9 asked for"):
        scent(store, pairs, **settings, chunk_pairs=9)
    parts = sorted((tmp_path / "links.parquet.parts").glob("part-*"))
    written = [p.stat().st_mtime_ns for p in parts[1:]]
    parts[0].unlink()
    monkeypatch.setattr(merging, "remove_at_once", lambda _: None)  # keep the parts, to look at them
    scent(store, pairs, **settings, chunk_pairs=8)
    assert [p.stat().st_mtime_ns for p in parts[1:]] == written  # a finished part is never computed again
    assert parts[0].exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"celltype": "C"}, "no cell is of type 'C'; types are: A, B"),
        ({"celltype": []}, "no cell type given"),
        ({"engine": "fast"}, "engine 'fast' is unknown; choose from moments, exact, moments-cuda"),
        ({"covariates": "log(nUMI),batch"}, "covariate 'batch' is not a column"),
        ({"offset": "log(batch)"}, "covariate 'batch' is not a column"),
        ({"chunk_pairs": 0}, "chunk_pairs is 0; want 1 or more"),
        ({"offset": ""}, "offset is empty; want a term"),
        ({"min_fraction": 2}, "min_fraction is 2; want a share from 0 to below 1"),
    ],
)
def test_scent__bad_requests_leave_nothing_behind(store, pairs, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        scent(store, pairs, **{"celltype": "A", "out": tmp_path / "links.parquet", "progress": False, **change})
    assert not list(tmp_path.iterdir())


def test_scent__output_must_be_the_name_of_a_parquet_file(store, pairs, tmp_path):
    with pytest.raises(InputError, match=r"links.csv: want a name that ends in .parquet"):
        scent(store, pairs, celltype="A", out=tmp_path / "links.csv", progress=False)
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "folder.parquet" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="folder.parquet: is a folder, want the name of a file"):
        scent(store, pairs, celltype="A", out=tmp_path / "folder.parquet", progress=False, overwrite=True)
    assert (tmp_path / "folder.parquet" / "thesis.txt").exists()


def test_scent__a_cell_type_named_twice_counts_once(store, pairs):
    some = pd.read_parquet(pairs).iloc[:30]
    twice, once = (scent(store, some, celltype=t, ladder=SHORT, progress=False) for t in (["A", "B", "A"], ["A", "B"]))
    pd.testing.assert_frame_equal(twice, once)


def test_scent__paths_may_be_relative_while_workers_are_elsewhere(store, pairs, client, tmp_path, monkeypatch):
    some = pd.read_parquet(pairs).iloc[:5]
    monkeypatch.chdir(store.parent)
    out = os.path.relpath(tmp_path / "links.parquet")
    client.run(os.chdir, "/")
    assert len(scent(store.name, some, celltype="A", ladder=SHORT, out=out, client=client, progress=False)) == 5


def test_scent_block__no_estimable_resample_is_said():
    atac = np.ones((1, 3), int)
    atac[0, 0] = 0
    rna = np.array([[2, 1, 3]])
    table = scent_block(
        rna, atac, [0], [0], np.empty((3, 0)), celltype="x", options=Options(ladder=(Rung(1, 0.0),), seed=2)
    )
    assert 0 <= table["n_resamples"].item() <= 1
    statuses = {
        scent_block(
            rna, atac, [0], [0], np.empty((3, 0)), celltype="x", options=Options(ladder=(Rung(1, 0.0),), seed=s)
        )["status"].item()
        for s in range(20)
    }
    assert statuses == {"tested", "no resample estimable"}


def test_scent__many_rare_categories(store, pairs):
    """Donors without counts of a gene leave the fit; p-values stay p-values and most pairs can be tested."""
    some = pd.read_parquet(pairs).iloc[:60]
    links = scent(store, some, covariates="log(nUMI),donor", ladder=SHORT, progress=False)
    assert not (links["status"] == "not converged").any()
    assert links["boot_basic_p"].dropna().between(0, 1).all()


def test_scent__bad_pairs(store, tmp_path):
    for table, message in (
        (pd.DataFrame({"gene": ["GENE1"], "peak": ["nowhere"]}), "peak 'nowhere' is not in"),
        (pd.DataFrame({"gene": ["NOPE"], "peak": ["nowhere"]}), "gene 'NOPE' is not in"),
        (
            pd.DataFrame({"gene": ["GENE1"], "enhancer": ["x"]}),
            "column 'peak' is missing; columns found: gene, enhancer",
        ),
        (pd.DataFrame({"gene": [None], "peak": ["x"]}), "column 'gene' is empty in 1 rows"),
        (pd.DataFrame({"gene": [], "peak": []}), "pairs: the table is empty"),
    ):
        with pytest.raises(InputError, match=message):
            scent(store, table, celltype="A", out=tmp_path / "links.parquet", progress=False)
    assert not list(tmp_path.iterdir())


def test_scent__warns_of_duplicates_constants_and_collinearity(store, pairs):
    one = pd.read_parquet(pairs).iloc[:1]
    said = []
    settings = {"celltype": "A", "ladder": SHORT, "progress": False, "warn": said.append}
    links = scent(store, pd.concat([one, one]), covariates="celltype", **settings)
    assert len(links) == 1
    assert said == ["covariate 'celltype' is constant in 'A' and left out there", "pairs: 1 duplicate rows count once"]
    said.clear()
    links = scent(store, one, covariates="log(nUMI),log2(nUMI)", **settings)
    assert links["status"].tolist() == ["collinear covariates"]
    assert said == ["covariates are collinear in 'A', nothing is tested there: log(nUMI), log2(nUMI)"]


def test_scent__offset_is_a_covariate_with_coefficient_one(store, pairs):
    one = pd.read_parquet(pairs).iloc[:3]
    links = scent(store, one, celltype="A", covariates=[], offset="log(nUMI)", ladder=SHORT, progress=False)
    data = zarr.open_group(store, mode="r")
    cells = data["cell_celltype"][:] == "A"
    n_umi = data["cell_n_umi"][:][cells]
    for row in links[links["status"] == "tested"].itertuples():
        y = data["rna"][list(data["gene"][:]).index(row.gene)][cells]
        a = data["atac"][list(data["peak"][:]).index(row.peak)][cells] > 0
        want = np.log(y[a].sum() / n_umi[a].sum()) - np.log(y[~a].sum() / n_umi[~a].sum())
        assert row.beta == pytest.approx(want, abs=1e-8)


def test_block_bounds__cover_all_pairs_in_whole_genes_where_they_fit():
    rng = np.random.default_rng(0)
    for size in (1, 3, 10, 1000):
        gene = np.sort(rng.integers(0, 12, 100))
        bounds = block_bounds(gene, size)
        assert bounds[0] == 0
        assert bounds[-1] == 100
        assert (np.diff(bounds) > 0).all()
        assert np.diff(bounds).max() <= size
        for cut in bounds[1:-1]:  # a cut inside a gene only where the gene is larger than a block
            if gene[cut - 1] == gene[cut]:
                assert (gene == gene[cut]).sum() > size


def test_scent__p_saddle_alone_resamples_only_the_doubtful(whole, store, pairs):
    alone = scent(store, pairs, p="saddle", ladder=up_to(2_500), seed=5, progress=False)
    both = whole[whole["saddle_status"] == "trusted"].index
    assert len(both) > 20
    pd.testing.assert_series_equal(alone["p_saddle"], whole["p_saddle"], check_exact=True)
    assert alone.loc[both, "boot_basic_p"].isna().all()
    assert alone["fdr"].isna().all()  # a few doubtful pairs are no family of tests
    assert summary(alone)["n_fdr_10"] is None
    assert (alone.loc[both, "n_refits"] == 0).all()
    doubtful = alone[(alone["status"] == "tested") & (alone["saddle_status"] != "trusted")]
    assert len(doubtful) > 0
    assert (doubtful["p_saddle"] == doubtful["boot_basic_p"]).all()
    for celltype in ("A", "B"):
        mine = alone[alone["celltype"] == celltype]
        np.testing.assert_array_equal(mine["fdr_saddle"], benjamini_hochberg(mine["p_saddle"].to_numpy()))
    ladder = scent(store, pairs, p="ladder", ladder=up_to(2_500), seed=5, progress=False)
    assert ladder["p_saddle"].isna().all()
    pd.testing.assert_series_equal(ladder["boot_basic_p"], whole["boot_basic_p"], check_exact=True)


def test_scent__saddle_and_ladder_agree_within_resampling_error(whole):
    rows = whole[whole["saddle_status"] == "trusted"]
    p, n = rows["p_saddle"], rows["n_resamples"]
    z = (rows["boot_basic_p"] - p) / np.sqrt(p * (2 - p) / n)
    at_floor = rows["boot_basic_p"] <= 2 / n  # what the ladder cannot resolve
    # a rung is left because of its own value, so single values lean; 4.5 sigma and 7% of p for the approximation
    far = np.abs(z) * np.sqrt(p * (2 - p) / n) > 4.5 * np.sqrt(p * (2 - p) / n) + 0.07 * p
    assert not (far & ~at_floor).any()
    assert (p[at_floor] < 4.5**2 / n[at_floor]).all()


def test_scent__certificate_of_chosen_pairs(store, pairs, tmp_path, whole):
    out = tmp_path / "links.parquet"
    settings = {"p": "saddle", "ladder": up_to(2_500), "seed": 5, "progress": False, "out": out}
    links = scent(store, pairs, certify=4, **settings)
    done = links[links["p_tilted"].notna()]
    assert list(links.columns) == [*COLUMNS, "p_tilted", "se_p_tilted"]
    assert 4 <= len(done) <= 8
    trusted = done[done["saddle_status"] == "trusted"]
    assert len(trusted) == len(done)
    assert set(whole.loc[whole["saddle_status"] == "trusted", "p_saddle"].nsmallest(4).index) <= set(done.index)
    error = np.abs(trusted["p_saddle"] - trusted["p_tilted"])
    assert (error < 0.15 * trusted["p_tilted"] + 4.5 * trusted["se_p_tilted"]).all()  # 110 to 150 cells
    found = agreement(links)
    assert found is not None
    assert found.n_pairs == len(trusted)
    with pytest.raises(ResumeError, match="'certify' is"):
        scent(store, pairs, certify=5, **settings)
    again = scent(store, pairs, certify=4, **settings)  # finished: read back
    pd.testing.assert_frame_equal(again, links, check_exact=True)
    cut = scent(store, pairs, certify=4, chunk_pairs=3, overwrite=True, **{**settings, "out": tmp_path / "cut.parquet"})
    pd.testing.assert_frame_equal(cut, links, check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.parquet", "links.parquet"]


def test_scent__interrupted_before_its_certificate(store, pairs, tmp_path, monkeypatch, whole):
    out = tmp_path / "links.parquet"
    settings = {"p": "saddle", "ladder": up_to(100), "progress": False, "out": out}

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "_certified", stop)
    with pytest.raises(KeyboardInterrupt):
        scent(store, pairs, certify_below=1e-6, **settings)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2  # parts of the links and of the certificate
    plain = scent(store, pairs, **settings)  # now without a certificate: the links' parts are taken over
    assert list(plain.columns) == list(COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["links.parquet"]
    below = scent(store, pairs, certify_below=1e-6, overwrite=True, **settings)
    assert set(below.index[below["p_tilted"].notna()]) == set(
        plain.index[(plain["p_saddle"] < 1e-6) & (plain["saddle_status"] == "trusted")]
    )
    none = scent(store, pairs, certify_below=1e-300, overwrite=True, **settings)
    assert none["p_tilted"].isna().all()
    assert summary(none)["certificate"]["n_pairs"] == 0


def test_scent__negative_binomial_matches_r_glm_nb(oracle, tiles_store):
    # oracle, R: MASS::glm.nb(exprs ~ atac + log(nUMI) + percent.mito)
    want = oracle("negbin_glm").iloc[::6]
    links = scent(
        tiles_store, want[["gene", "peak"]], celltype="CD14+ Monocytes", regression="negbin", ladder=up_to(100),
        progress=False,
    )  # fmt: skip
    both = want.merge(links, on=["celltype", "gene", "peak"], suffixes=("_r", ""))
    assert len(both) == len(want) >= 5
    np.testing.assert_allclose(both["beta"], both["beta_r"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(both["theta"], both["theta_r"], rtol=1e-4)
    np.testing.assert_allclose(both["se"], both["se_r"], rtol=1e-5)
    assert (both["n_exact"] == both["n_refits"]).all()
    p = both["p_saddle"]
    assert (np.abs(both["boot_basic_p"] - p) < 4.5 * np.sqrt(p * (2 - p) / 100) + 0.02).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": "wald"}, "p 'wald' is unknown; choose from saddle, ladder, both"),
        ({"regression": "gamma"}, "regression 'gamma' is unknown; choose from poisson, negbin"),
        ({"certify": -1}, "certify is -1 and 0; want 0 or more"),
        ({"certify": 3, "p": "ladder"}, "certify checks p_saddle"),
        ({"certify_below": 0.1, "regression": "negbin"}, "certify checks p_saddle of the Poisson model"),
    ],
)
def test_scent__bad_options_are_named(store, pairs, change, message):
    with pytest.raises(InputError, match=message):
        scent(store, pairs, **change, progress=False)


def test_scent__an_engine_that_this_machine_lacks_is_named(store, pairs):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ChunkError, match="engine 'moments-cuda': device 'cuda': torch sees 0 GPUs"):
        scent(store, pairs, p="ladder", engine="moments-cuda", progress=False)
