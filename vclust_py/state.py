"""Bridge for the modules of `cache`, until they take a session."""

import contextlib
import sqlite3
from collections.abc import Iterator

from vclust_py.change import Change as Change
from vclust_py.site import Site
from vclust_py.site import clusters as _clusters
from vclust_py.site.clusters import Cluster as Cluster
from vclust_py.site.store import Store


@contextlib.contextmanager
def connect(site: Site) -> Iterator[sqlite3.Connection]:
    store = Store(site)
    try:
        with store._failures():
            yield store._open()
    finally:
        store.close()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def clusters(site: Site) -> list[Cluster]:
    store = Store(site)
    try:
        return _clusters.live(store)
    finally:
        store.close()
