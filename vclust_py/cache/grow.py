"""Growth chains: the sets that `nested` chooses among."""

import numpy as np

from vclust_py.cache.choose import Sets
from vclust_py.cache.history import Table, pack

_BLOCK = 512
"""Requests multiplied at a time."""


def chains(table: Table, doubt: int = 0) -> Sets:
    """Every distinct request, and what it shares with more and more others; of those, what more than `doubt` hold.

    From each request's set C: again and again C becomes C ∩ X for the request X that has most bytes of C but not
    all (ties: the first one), until nothing is left; every C counts, in the order they are found.  Chains that meet
    go on as one.  Cost: n² m time for n distinct requests and m atoms, as for the clustering.
    """
    weights, columns, rows, unit = table.scale[0], table.columns, table.rows, table.scale[1]
    empty = table.weights == 0
    seen: set[bytes] = set()
    bits, sizes, costs, members, requests = [], [], [], [], []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for row, shared in zip(block, table.common(block), strict=True):
            held, size = row, float(weights[row].sum())
            while size and (key := pack(held).tobytes()) not in seen:
                seen.add(key)
                holders = np.flatnonzero(shared == size)
                if (without := held & empty).any():  # bytes do not tell who holds these
                    holders = holders[rows[holders][:, without].all(axis=1)]
                count = int(table.counts[holders].sum())
                if count > doubt:
                    requests.append(count)
                    bits.append(key)
                    sizes.append(int(size) * unit)
                    costs.append(table.costs[held].sum())
                    members.append(holders)
                others = np.where(shared < size, shared, 0)
                nearest = int(others.argmax())
                size = float(others[nearest])
                lost, held = held & ~rows[nearest], held & rows[nearest]
                if np.count_nonzero(lost) < np.count_nonzero(held):
                    shared = shared - weights[lost] @ columns[lost]
                else:
                    shared = weights[held] @ columns[held]
    packed = np.frombuffer(b"".join(bits), dtype=np.uint64).reshape(len(bits), table.bits.shape[1])
    bytes_ = np.array(sizes, dtype=np.int64)
    stored = np.array(costs, dtype=np.int64)
    return Sets(packed, bytes_, stored, tuple(members), np.array(requests, dtype=np.int64), bytes_)
