"""Past requests of a site as sets of packages: what learning begins with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bits = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[Any]
"""float32 or float64."""


class Package(Protocol):
    """What learning needs of a package; `vclust_py.resolve.Package` is one."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def installed_size(self) -> int: ...


P = TypeVar("P", bound=Package)


@dataclass(frozen=True)
class Table:
    """The distinct requests over atoms: groups of packages that always came together.

    A set made by intersecting requests holds an atom whole or not at all, so nothing is lost, and on real histories
    there are three times fewer atoms than packages.
    """

    rows: Bools
    """(distinct requests, atoms)."""
    weights: Ints
    """(atoms,) installed bytes."""
    costs: Ints
    """(atoms,) bytes as stored in a cache."""
    counts: Ints
    """(distinct requests,) how often each was seen."""

    @cached_property
    def bits(self) -> Bits:
        """(distinct requests, words) `rows`, packed."""
        return pack(self.rows)

    @cached_property
    def holders(self) -> Bits:
        """(atoms, words) which requests hold an atom, packed."""
        return pack(np.ascontiguousarray(self.rows.T))

    @cached_property
    def sizes(self) -> Ints:
        """(distinct requests,) installed bytes."""
        return np.array([self.weights[row].sum() for row in self.rows], dtype=np.int64)

    @cached_property
    def scale(self) -> tuple[Floats, int]:
        """Weights in a float type that adds them exactly, and the bytes of its unit.

        dpkg's sizes are multiples of 1,024, so float32, twice as fast, is nearly always enough.
        """
        unit = max(int(np.gcd.reduce(self.weights, initial=0)), 1)
        exact = int(self.sizes.max(initial=0)) // unit < 2**24
        return (self.weights // unit).astype(np.float32 if exact else np.float64), unit

    @cached_property
    def columns(self) -> Floats:
        """(atoms, distinct requests) 1 where the request holds the atom, in the type of `scale`."""
        return np.ascontiguousarray(self.rows.T).astype(self.scale[0].dtype)

    def common(self, rows: Bools, out: Floats | None = None) -> Floats:
        """(rows, distinct requests) bytes in common, in units of `scale`; exact.  `rows` is (rows, atoms)."""
        found: Floats = np.matmul(rows * self.scale[0], self.columns, out=out)
        return found

    def holding(self, atoms: Ints) -> Ints:
        """The distinct requests that hold all of `atoms`, ascending; all requests when there are none."""
        if len(atoms) == 0:
            return np.arange(len(self.rows))
        return np.flatnonzero(unpack(np.bitwise_and.reduce(self.holders[atoms], axis=0), len(self.rows)))


class History:
    """Requests in the order they came, each the set of packages it takes beyond the base.

    Packages of the same name and version are the same; of two sizes the first one counts.  Requests for the same
    set are one distinct request with a count, numbered by first appearance.
    """

    def __init__(self, requests: Iterable[Iterable[P]], *, stored: Callable[[P], int] | None = None) -> None:
        """`stored` estimates the bytes a package takes in a cache as it is stored; default: as installed."""
        columns: dict[tuple[str, str], int] = {}
        sizes: list[int] = []
        costs: list[int] = []
        distinct: dict[tuple[int, ...], int] = {}
        sequence: list[int] = []
        for request in requests:
            found = set()
            for package in request:
                column = columns.setdefault((package.name, package.version), len(sizes))
                if column == len(sizes):
                    sizes.append(package.installed_size)
                    costs.append(package.installed_size if stored is None else stored(package))
                found.add(column)
            sequence.append(distinct.setdefault(tuple(sorted(found)), len(distinct)))
        self._set(
            [f"{name}={version}" for name, version in columns],
            np.array(sizes, dtype=np.int64),
            np.array(costs, dtype=np.int64),
            [np.array(row, dtype=np.int64) for row in distinct],
            np.array(sequence, dtype=np.int64),
        )

    def _set(
        self, packages: Sequence[str], weights: Ints, costs: Ints, distinct: Sequence[Ints], sequence: Ints
    ) -> None:
        self.packages = packages
        """`name=version`."""
        self.weights = weights
        """(packages,) installed bytes."""
        self.costs = costs
        """(packages,) bytes as stored in a cache."""
        self.distinct = distinct
        """The packages of each distinct request, ascending."""
        self.sequence = sequence
        """(requests,) the distinct request that each was."""

    def __len__(self) -> int:
        return len(self.sequence)

    def part(self, start: int, end: int) -> "History":
        """The requests from number `start` to before `end`."""
        sequence = self.sequence[start:end]
        _, first = np.unique(sequence, return_index=True)
        numbers = sequence[np.sort(first)]
        new = np.zeros(len(self.distinct), dtype=np.int64)
        new[numbers] = np.arange(len(numbers))
        history = History.__new__(History)
        history._set(
            self.packages,
            self.weights,
            self.costs,
            [self.distinct[number] for number in numbers],
            new[sequence],
        )
        return history

    @cached_property
    def counts(self) -> Ints:
        return np.bincount(self.sequence, minlength=len(self.distinct)).astype(np.int64)

    @cached_property
    def sets(self) -> tuple[frozenset[str], ...]:
        """The packages of each distinct request."""
        return tuple(self.names(row) for row in self.distinct)

    def names(self, columns: Ints) -> frozenset[str]:
        return frozenset(self.packages[column] for column in columns)

    def size(self, columns: Ints) -> int:
        """Installed bytes."""
        return int(self.weights[columns].sum())

    def cost(self, columns: Ints) -> int:
        """Bytes as stored in a cache."""
        return int(self.costs[columns].sum())

    @cached_property
    def _atoms(self) -> tuple[Ints, Bools]:
        """(packages,) the atom of each package, -1 when no request holds it; (distinct requests, atoms)."""
        rows = np.zeros((len(self.packages), len(self.distinct)), dtype=np.bool_)
        for number, columns in enumerate(self.distinct):
            rows[columns, number] = True
        atoms: dict[bytes, int] = {bytes((len(self.distinct) + 7) // 8): -1}
        atom_of = np.empty(len(rows), dtype=np.int64)
        first: list[int] = []
        for column, row in enumerate(np.packbits(rows, axis=1)):
            atom_of[column] = atom = atoms.setdefault(row.tobytes(), len(first))
            if atom == len(first):
                first.append(column)
        return atom_of, np.ascontiguousarray(rows[np.array(first, dtype=np.int64)].T)

    @cached_property
    def table(self) -> Table:
        atom_of, rows = self._atoms
        used = atom_of >= 0
        weights, costs = np.zeros((2, rows.shape[1]), dtype=np.int64)
        np.add.at(weights, atom_of[used], self.weights[used])
        np.add.at(costs, atom_of[used], self.costs[used])
        return Table(rows, weights, costs, self.counts)

    def columns(self, atoms: Bools) -> Ints:
        """The packages of a set of atoms, as columns.  `atoms` is (atoms,)."""
        atom_of, _ = self._atoms
        return np.flatnonzero(np.append(atoms, False)[atom_of])


def pack(rows: Bools) -> Bits:
    """(…, n) bools as (…, words of 64)."""
    packed = np.packbits(rows, axis=-1)
    words = np.zeros((*rows.shape[:-1], (rows.shape[-1] + 63) // 64), dtype=np.uint64)
    words.view(np.uint8)[..., : packed.shape[-1]] = packed
    return words


def unpack(words: Bits, count: int) -> Bools:
    """The first `count` bools of `pack`'s result."""
    return np.unpackbits(words.view(np.uint8), axis=-1, count=count).view(np.bool_)
