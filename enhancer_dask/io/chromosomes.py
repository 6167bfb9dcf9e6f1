"""Names and sizes of chromosomes: ``chr1``, ``1`` and ``mm10_chr1`` are one; two assemblies are not mixed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from enhancer_dask.errors import InputError

Sizes: TypeAlias = Mapping[str, int] | pd.DataFrame | str | Path
_PREFIXED = re.compile(r"(?!chr)([A-Za-z][\w.]*?)_(chr\w.*)")


def assembly_prefix(name: str) -> str:
    """``mm10`` of ``mm10_chr1``; empty if there is none.

    Examples
    --------
    >>> [assembly_prefix(name) for name in ("mm10_chr1", "chr1_random", "1")]
    ['mm10', '', '']
    """
    found = _PREFIXED.fullmatch(name)
    return found.group(1) if found else ""


def bare_name(name: str) -> str:
    """A chromosome's name without assembly and ``chr``; the mitochondrial one is ``MT``.

    Examples
    --------
    >>> [bare_name(name) for name in ("mm10_chr1", "chrX", "7", "chrM", "chr1_random")]
    ['1', 'X', '7', 'MT', '1_random']
    """
    found = _PREFIXED.fullmatch(name)
    bare = (found.group(2) if found else name).removeprefix("chr")
    return "MT" if bare == "M" else bare


class ChromosomeNames:
    """Which chromosome of an assembly a name in a file means.

    Parameters
    ----------
    sizes : mapping
        Length in bp of each chromosome of the assembly.
    label : str
        The file, for messages.
    """

    def __init__(self, sizes: Mapping[str, int], label: str) -> None:
        self.label, self.sizes = label, sizes
        self.exact = {name: code for code, name in enumerate(sizes)}
        self.bare: dict[str, int] = {}
        for name, code in self.exact.items():
            # two assemblies in one genome (hg38_chr1, mm10_chr1) are told apart by the full names only
            self.bare[bare_name(name)] = code if bare_name(name) not in self.bare else -1
        self.prefixes = {assembly_prefix(name) for name in sizes} - {""}
        self.found: dict[str, int] = {}
        self.meant: dict[int, str] = {}

    def code(self, name: str) -> int:
        """Position in ``sizes``; -1 if it is none of them.

        Raises
        ------
        InputError
            If it is of another assembly than the names before, or two names mean one chromosome.
        """
        if name not in self.found:
            code = self.exact.get(name, -2)
            if code == -2:
                code = self._by_bare_name(name)
            other = self.meant.setdefault(code, name) if code >= 0 else name
            if other != name:
                raise InputError(f"{self.label}: {other!r} and {name!r} both mean chromosome {self._name(code)!r}")
            self.found[name] = code
        return self.found[name]

    def _by_bare_name(self, name: str) -> int:
        prefix = assembly_prefix(name)
        if prefix and self.prefixes and prefix not in self.prefixes:
            raise InputError(
                f"{self.label}: chromosome {name!r} is not of assembly {' or '.join(sorted(self.prefixes))}: mixed "
                "assemblies; want contacts and chromosome sizes of one"
            )
        if prefix:
            self.prefixes.add(prefix)
        return self.bare.get(bare_name(name), -1)

    def _name(self, code: int) -> str:
        return list(self.sizes)[code]


def named_chromosomes(wanted: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """Chromosomes as they are called where they are looked for; a name that is none of them stays as it is.

    Examples
    --------
    >>> named_chromosomes(["2", "chrX", "nope"], ["chr1", "chr2", "chrX"])
    ('chr2', 'chrX', 'nope')
    """
    names = ChromosomeNames(dict.fromkeys(known, 0), "chromosomes")
    return tuple(known[names.code(name)] if names.code(name) >= 0 else name for name in wanted)


def read_chromsizes(sizes: Sizes) -> dict[str, int]:
    """Chromosome sizes from a mapping, a table or a ``.chrom.sizes`` file, in the order given.

    Parameters
    ----------
    sizes : mapping, DataFrame or path
        A file has two columns, name and size in bp, without header; a DataFrame its first two columns.

    Raises
    ------
    InputError
        If the file is missing or a line is not a name and a size.
    """
    if isinstance(sizes, pd.DataFrame):
        rows: Iterable[tuple[str, object]] = zip(sizes.iloc[:, 0].astype(str), sizes.iloc[:, 1], strict=True)
        return _checked(rows, "chromsizes")
    if isinstance(sizes, Mapping):
        return _checked(((str(name), size) for name, size in sizes.items()), "chromsizes")
    path = Path(sizes)
    if not path.exists():  # perhaps a pipe
        raise InputError(f"{path}: no such file")
    lines = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    for number, fields in enumerate(lines, 1):
        if len(fields) < 2 or not fields[1].isdigit():
            raise InputError(f"{path}: line {number} is not a chromosome and its size: {' '.join(fields)[:60]!r}")
    return _checked(((fields[0], fields[1]) for fields in lines), str(path))


def _checked(rows: Iterable[tuple[str, object]], label: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, size in rows:
        if name in sizes:
            raise InputError(f"{label}: chromosome {name!r} is there twice")
        try:
            sizes[name] = int(size)  # type: ignore[call-overload]
        except (TypeError, ValueError) as err:
            raise InputError(f"{label}: size of chromosome {name!r} is {size!r}, want a number of bp") from err
        if sizes[name] < 1:
            raise InputError(f"{label}: size of chromosome {name!r} is {size}, want 1 bp or more")
    if not sizes:
        raise InputError(f"{label}: no chromosome there")
    return sizes


def check_same_assembly(sizes: Mapping[str, int], other: Mapping[str, int], label: str, other_label: str) -> None:
    """Refuse two genomes of which a chromosome has two sizes.

    Raises
    ------
    InputError
        Naming the first such chromosome and both sizes.
    """
    names = ChromosomeNames(sizes, other_label)
    known = list(sizes.items())
    for name, size in other.items():
        code = names.code(name)
        if code >= 0 and known[code][1] != size:
            raise InputError(
                f"{other_label}: chromosome {name!r} has {size} bp, {known[code][0]!r} of {label} has "
                f"{known[code][1]}: mixed assemblies"
            )
