"""Which graphs a model is trained, chosen and judged on; no chromosome is in two of these sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pandas as pd
from pandas.api.types import is_bool_dtype

from enhancer_dask.errors import InputError
from enhancer_dask.io.chromosomes import bare_name
from enhancer_dask.shard_store import ShardStore

N_FOLDS = 10
AUTOSOMES = {"human": 22, "mouse": 19}
SETS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Fold:
    """Chromosomes of one run of a cross-validation, in the order of their numbers."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Conditions over the columns of the index of the shards, as pandas has them, that choose the graphs."""

    train: str
    validation: str
    test: str


def fold_of(i: int, chroms: Iterable[str], genome: str = "human") -> Fold:
    """Chromosomes of run ``i`` of the ten of GraphReg's cross-validation [1]_.

    Parameters
    ----------
    i : int
        1 to 10.
    chroms : iterable of str
        Names of the chromosomes that are there: ``chr1``, ``1`` or ``mm10_chr1``.
    genome : {"human", "mouse"}
        How many autosomes there are: 22 or 19.

    Returns
    -------
    Fold
        Validation: chromosomes i and i + 10; test: i + 1 and i + 11; training: the other autosomes.

    Raises
    ------
    InputError
        If there is no such run, one of the three sets is empty, or two chromosomes have one number.

    Notes
    -----
    Numbers beyond the last autosome wrap to the first ones: of mouse run 9 validates 9 and 19 and tests 10 and 1, run
    10 validates 10 and 1 and tests 11 and 2. In human nothing wraps, so chromosome 22 is always trained on, and in
    both every chromosome is tested at most twice. X, Y, M and contigs are in no set, as in GraphReg's training code,
    whose lists end with the autosomes: their copy number, and of X its second copy, differ between cells.

    References
    ----------
    .. [1] Karbalayghareh, Sahin and Leslie (2022), Genome Research 32, 930-944.

    Examples
    --------
    >>> human = [f"chr{n}" for n in [*range(1, 23), "X", "Y"]]
    >>> fold = fold_of(3, human)
    >>> fold.validation, fold.test, len(fold.train), "chrX" in fold.train
    (('chr3', 'chr13'), ('chr4', 'chr14'), 18, False)
    >>> fold_of(9, [f"chr{n}" for n in range(1, 20)], "mouse").test
    ('chr1', 'chr10')
    """
    if genome not in AUTOSOMES:
        raise InputError(f"genome is {genome!r}, want one of {', '.join(AUTOSOMES)}")
    if not 1 <= i <= N_FOLDS:
        raise InputError(f"fold is {i}, want 1 to {N_FOLDS}")
    last, numbers = AUTOSOMES[genome], _numbers(chroms)
    validation, test = ({(n - 1) % last + 1 for n in pair} for pair in ((i, i + 10), (i + 1, i + 11)))
    sets = {
        "train": [n for n in range(1, last + 1) if n not in validation | test],
        "validation": sorted(validation),
        "test": sorted(test),
    }
    found = {name: tuple(numbers[n] for n in wanted if n in numbers) for name, wanted in sets.items()}
    for name, names in found.items():
        if not names:
            wanted = ", ".join(map(str, sets[name]))
            raise InputError(f"fold {i} has no chromosome for {name}: want one of {wanted}, found {_listed(numbers)}")
    return Fold(**found)


def _numbers(chroms: Iterable[str]) -> dict[int, str]:
    """Names of the chromosomes that have numbers; ``scaffold_12`` and ``chrUn_7`` are none.

    Raises
    ------
    InputError
        If two have the same number.
    """
    found: dict[int, str] = {}
    for name in map(str, chroms):
        bare = bare_name(name)
        if bare.isdecimal() and found.setdefault(int(bare), name) != name:
            other = found[int(bare)]
            raise InputError(f"chromosomes {other!r} and {name!r} have one number, so a fold cannot tell them apart")
    return found


def _listed(numbers: Mapping[int, str]) -> str:
    return ", ".join(numbers[n] for n in sorted(numbers)) or "no chromosome with a number"


def genome_of(chroms: Iterable[str]) -> str:
    """Mouse if the chromosomes are of ``mm9`` or the like, or all of 1 to 19 are there and none of 20 to 22.

    Examples
    --------
    >>> genome_of(["mm10_chr1"]), genome_of(map(str, range(1, 20))), genome_of(["chr1", "chr2"])
    ('mouse', 'mouse', 'human')
    """
    names = list(map(str, chroms))
    numbers = set(_numbers(names)) & set(range(1, 23))
    if any(name.startswith(("mm", "GRCm")) for name in names) or numbers == set(range(1, 20)):
        return "mouse"
    return "human"


def choose_split(
    store: ShardStore,
    *,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    fold: int | None = None,
    genome: str | None = None,
) -> Split:
    """Conditions for the three sets: those given, those of a fold, or the values of the column ``split``.

    Raises
    ------
    InputError
        If they cannot be told, exclude each other, choose no graph, or a chromosome is in two sets.
    """
    given = {name: value for name, value in zip(SETS, (train, validation, test), strict=True) if value is not None}
    index = store.index
    if fold is not None:
        if given:
            raise InputError(f"give a fold or the condition {next(iter(given))!r}, not both")
        if "chrom" not in index:
            raise InputError(f"{store.path}: the index has no column 'chrom', which a fold wants")
        chroms = index["chrom"].unique()
        found = asdict(fold_of(fold, chroms, genome or genome_of(chroms)))
        split = Split(**{name: f"chrom in {list(names)}" for name, names in found.items()})
    elif len(given) < len(SETS) and "split" not in index:
        missing = next(name for name in SETS if name not in given)
        raise InputError(
            f"{store.path}: the index has no column 'split' and there is no condition for {missing!r}; give a fold "
            f"(1 to {N_FOLDS}) or all of train, validation and test"
        )
    else:
        split = Split(**{name: given.get(name, f"split == '{name}'") for name in SETS})
    check_disjoint(store, split)
    return split


def rows_of(store: ShardStore, condition: str) -> pd.DataFrame:
    """Rows of the index for which a condition holds.

    Raises
    ------
    InputError
        If it is no condition, or holds for no graph.
    """
    rows = store.index[holds(store, condition)]
    if rows.empty:
        raise InputError(f"{store.path}: no graph satisfies {condition!r}")
    return rows


def holds(store: ShardStore, condition: str) -> pd.Series:
    """For which rows of the index a condition holds, bool.

    Raises
    ------
    InputError
        If it is no condition: an expression of pandas over the columns that is true or false in each row.
    """
    index = store.index
    try:
        found = index.eval(condition)
    except Exception as err:  # whatever pandas finds wrong with an expression
        why = " ".join(str(err).split())
        raise InputError(f"{store.path}: {condition!r} is no condition on its index ({why})") from err
    if not isinstance(found, pd.Series) or not is_bool_dtype(found):
        why = "it is not true or false in each row"
        raise InputError(f"{store.path}: {condition!r} is no condition on its index ({why})")
    return found


def check_disjoint(store: ShardStore, split: Split) -> None:
    """Refuse sets that share a chromosome; where graphs are not of one chromosome (cells), sets that share a graph.

    Raises
    ------
    InputError
        Naming the first chromosome or graph that is in two sets.
    """
    column, word = ("chrom", "chromosome") if "chrom" in store.index else ("name", "graph")
    sets = {name: set(rows_of(store, condition)[column]) for name, condition in asdict(split).items()}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        both = sorted(map(str, sets[one] & sets[other]))
        if both:
            raise InputError(f"{store.path}: {word} {both[0]!r} is in both {one} and {other}; they must not share any")
