from __future__ import annotations

import gzip

import pandas as pd
import pytest

from enhancer_dask.errors import InputError
from enhancer_dask.io.annotation import annotate_genes, match_chromosome_style, read_gtf

GTF = """##provider: GENCODE
chr1\tHAVANA\tgene\t11869\t14409\t.\t+\t.\tgene_id "ENSG1.5"; gene_type "lncRNA"; gene_name "ONE";
chr1\tHAVANA\ttranscript\t11869\t14000\t.\t+\t.\tgene_id "ENSG1.5"; transcript_id "T1"; gene_name "ONE";
chrX\tHAVANA\tgene\t200\t300\t.\t-\t.\tgene_id "ENSG2.1_PAR_Y"; gene_name "TWO";
chr3\tENSEMBL\tgene\t7\t9\t.\t-\t.\tgene_id "ENSG3.1";
"""


@pytest.fixture(params=["plain", "gz"])
def gtf(request, tmp_path):
    path = tmp_path / ("genes.gtf" if request.param == "plain" else "genes.gtf.gz")
    (path.write_bytes if request.param == "plain" else lambda b: path.write_bytes(gzip.compress(b)))(GTF.encode())
    return path


def test_read_gtf__gives_0_based_genes(gtf):
    table = read_gtf(gtf)
    assert table["id"].tolist() == ["ENSG1.5", "ENSG2.1_PAR_Y", "ENSG3.1"]
    assert table["name"].tolist() == ["ONE", "TWO", "ENSG3.1"]
    assert table[["start", "end"]].to_numpy().tolist() == [[11868, 14409], [199, 300], [6, 9]]
    assert table["strand"].tolist() == ["+", "-", "-"]


def test_read_gtf__without_gene_lines_spans_the_others(tmp_path):
    path = tmp_path / "t.gtf"
    path.write_text("".join(f'chr1\tx\texon\t{s}\t{s + 9}\t.\t-\t.\tgene_id "G"; gene_name "N";\n' for s in (500, 100)))
    row = read_gtf(path).iloc[0]
    assert (row["id"], row["name"], row["start"], row["end"], row["strand"]) == ("G", "N", 99, 509, "-")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a gtf\n", "not readable as GTF"),
        (b"chr1\tx\tgene\t1\t2\t.\t+\t.\tID=gene1\n", "no line has a gene_id"),
        (gzip.compress(GTF.encode(), mtime=0)[:60], "not readable as GTF"),
        (b"", "not readable as GTF"),
    ],
    ids=["text", "no_gene_id", "cut_gzip", "empty"],
)
def test_read_gtf__bad_files_are_named(tmp_path, content, message):
    path = tmp_path / ("x.gtf.gz" if content[:2] == b"\x1f\x8b" else "x.gtf")
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        read_gtf(path)


def test_annotate_genes__by_id_then_by_name(gtf):
    genes = pd.DataFrame({"id": ["ENSG1", "x", "y"], "name": ["other", "TWO", "THREE"], "chrom": ["", "", "chr9"]})
    genes = genes.assign(start=[-1, -1, 5], end=[-1, -1, 6], strand=".")
    out, report = annotate_genes(genes, read_gtf(gtf), "genes.gtf")
    assert out["chrom"].tolist() == ["chr1", "chrX", "chr9"]
    assert out["start"].tolist() == [11868, 199, 5]
    assert out["strand"].tolist() == ["+", "-", "."]
    assert report == {"n_by_id": 1, "n_by_name": 1, "n_unmatched": 1}
    with pytest.raises(InputError, match="genes.gtf: none of the 1 genes is in this GTF .first gene: 'THREE', 'y'"):
        annotate_genes(genes.iloc[2:], read_gtf(gtf), "genes.gtf")


def test_annotate_genes__an_id_is_cut_only_where_that_keeps_it_unique():
    gtf = pd.DataFrame({"id": ["Pp3c1.10", "Pp3c1.20"], "chrom": ["c1", "c2"], "start": [1, 2], "end": [3, 4]})
    gtf = gtf.assign(name=gtf["id"], strand="+")
    genes = gtf.assign(chrom="", start=-1, end=-1)
    assert annotate_genes(genes, gtf, "x")[0]["chrom"].tolist() == ["c1", "c2"]
    with pytest.raises(InputError, match="none of the 1 genes"):
        annotate_genes(genes.iloc[:1].assign(id="Pp3c1.30", name="Pp3c1.30"), gtf, "x")


def test_match_chromosome_style__follows_the_peaks_chromosome_by_chromosome():
    own = pd.Series(["chr1", "1", "", "MT", "chrM", "KI270728.1", "7"])
    peaks = {"chr1", "chrM", "KI270728.1"}
    assert match_chromosome_style(own, peaks).tolist() == ["chr1", "chr1", "", "chrM", "chrM", "KI270728.1", "7"]
    peaks = {"1", "MT", "7"}
    assert match_chromosome_style(own, peaks).tolist() == ["1", "1", "", "MT", "MT", "KI270728.1", "7"]


def test_read_gtf__refuses_genes_that_end_before_they_start(tmp_path):
    (tmp_path / "g.gtf").write_text('chr1\tx\tgene\t90\t9\t.\t+\t.\tgene_id "G";\n')
    with pytest.raises(InputError, match="g.gtf: gene 'G' ends at 9, before its start 90"):
        read_gtf(tmp_path / "g.gtf")
