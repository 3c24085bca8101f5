"""The site's store: one SQLite database on the site manager (clusters, nodes, timings, past requests, audit).

Several processes work on it at once, each by one connection; every change is one short `BEGIN IMMEDIATE`
transaction, and who only reads waits for none.  It holds password hashes, so it is for root only.  All SQL is in this
folder: its modules have functions that take a `Store`.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vclust_py.errors import VclustError
from vclust_py.image.space import free_bytes, full_disk
from vclust_py.site.migrations import STEPS
from vclust_py.site.settings import Site
from vclust_py.site.users import User, acting

_LEAST_FREE = 1 << 20  # bytes without which the database cannot work
_BUSY = 30.0  # seconds to wait for another process's transaction

Values = Sequence[Any] | Mapping[str, Any]


class Store:
    """The connection of this process, opened when it is first needed; its threads may share it.

    Every method raises VclustError when the database cannot be opened, read or written.
    """

    def __init__(self, site: Site, who: str = "") -> None:
        """`who` works on the site; by default the user of this process."""
        self.site, self.who = site, who
        self._connection: sqlite3.Connection | None = None
        self._mutex = threading.RLock()
        self._depth = 0
        self._reading = False

    @cached_property
    def user(self) -> User:
        """Whom this process works for.  Raises RequestError as `vclust_py.site.users.acting` does."""
        return acting(self.site, self.who)

    @property
    def exists(self) -> bool:
        """Whether anything was ever written; reading must not make a database."""
        return self._connection is not None or self.site.database.exists()

    def execute(self, statement: str, values: Values = ()) -> sqlite3.Cursor:
        with self._mutex, self._failures():
            return self._open().execute(statement, values)

    def insert(self, statement: str, values: Values = ()) -> int:
        """The number of the new row."""
        number = self.execute(statement, values).lastrowid
        return number or 0

    def executemany(self, statement: str, rows: Iterable[Values]) -> None:
        """All rows in one transaction."""
        with self.transaction(), self._failures():
            self._open().executemany(statement, rows)

    def rows(self, statement: str, values: Values = ()) -> list[sqlite3.Row]:
        with self._mutex, self._failures():
            return self._open().execute(statement, values).fetchall()

    def row(self, statement: str, values: Values = ()) -> sqlite3.Row | None:
        """The first row, if there is one."""
        with self._mutex, self._failures():
            found: sqlite3.Row | None = self._open().execute(statement, values).fetchone()
            return found

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Around statements that hold together; within another one, part of that one.  Other threads wait."""
        with self._mutex:
            if self._reading:
                raise RuntimeError(
                    "a transaction within reading(): what was read may have changed since then"
                )
            with self._begun("BEGIN IMMEDIATE"):
                yield

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around statements that read one state of the database; within a transaction, part of that.

        It neither waits for the transactions of other processes nor do they wait for it.
        """
        with self._mutex:
            outer, self._reading = self._reading, self._reading or not self._depth
            try:
                with self._begun("BEGIN"):
                    yield
            finally:
                self._reading = outer

    @contextlib.contextmanager
    def _begun(self, statement: str) -> Iterator[None]:
        """Around the body, unless something was begun already."""
        if self._depth:
            yield
            return
        with self._failures():
            self._open().execute(statement)
        self._depth = 1
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._open().execute("ROLLBACK")
            raise
        else:
            with self._failures():
                self._open().execute("COMMIT")
        finally:
            self._depth = 0

    def copy_to(self, path: Path) -> None:
        """Write all as it is at one moment into the new file `path`, while others may go on writing here."""
        path.touch(mode=0o600, exist_ok=False)
        with self._mutex, self._failures(), contextlib.closing(sqlite3.connect(path)) as copy:
            self._open().backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file

    def replace_by(self, path: Path) -> None:
        """Take the content of the database in `path`, at one moment for all who have this one open too.

        It is of this version.  Raises VclustError while another process is in the middle of a transaction for long.
        """
        deadline = time.monotonic() + _BUSY

        def bounded(status: int, remaining: int, total: int) -> None:
            if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
                raise VclustError(f"{self.site.database}: another process is at work in it for {_BUSY:g} s")

        with self._mutex, self._failures(), contextlib.closing(sqlite3.connect(path)) as source:
            source.backup(self._open(), progress=bounded)

    def close(self) -> None:
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.site.make_directories()
            if not self.site.database.exists():
                self.site.database.touch(mode=0o600)
            connection = sqlite3.connect(
                self.site.database, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(STEPS):
            raise VclustError(
                f"{self.site.database}: got version {version} of the state, expected {len(STEPS)} at most",
                "a newer vclust has worked here: use that one",
            )
        if version < len(STEPS):
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        connection.execute("PRAGMA foreign_keys = ON")

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Makes errors of the database plain ones."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            # Some of SQLite's errors on a full disk do not say so.
            if code == sqlite3.SQLITE_FULL or free_bytes(self.site.root) < _LEAST_FREE:
                raise full_disk(self.site.root) from error
            hint = (
                "the site's state is damaged: move it away and put a backup back (vclust site restore), or remove its"
                " domains with virsh"
                if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
                else "are you root, and is the disk in order?"
            )
            raise VclustError(f"{self.site.database}: {error}", hint) from error


def migrate(connection: sqlite3.Connection, steps: int = len(STEPS)) -> None:
    """Bring the database to version `steps`; whoever comes first does it, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for step in STEPS[version:steps]:
            step(connection)
        connection.execute(f"PRAGMA user_version = {max(version, steps)}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def migrate_file(path: Path) -> None:
    """Bring the database in a file that nobody else has open to the newest version."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection)


def check_file(path: Path) -> None:
    """Raises VclustError unless the file is a whole database of a version that this one knows."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not 0 < version <= len(STEPS):
                raise VclustError(
                    f"got version {version} of the state, expected 1 to {len(STEPS)}",
                    "a newer vclust has written it: use that one",
                )
            wrong = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if wrong != "ok":
                raise VclustError(f"damaged: {wrong}")
    except sqlite3.Error as error:
        raise VclustError(f"damaged: {error}") from error


def audit(store: Store, action: str, cluster: str, detail: str = "") -> None:
    """Note who has done what; part of the transaction that does it."""
    user = store.user
    store.execute(
        "INSERT INTO audit (time, who, via, action, cluster, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (time.time(), user.name, user.via, action, cluster, detail),
    )


def audit_of(store: Store, cluster: str, since: float) -> list[dict[str, Any]]:
    """What was done with a cluster by its name (time, who, via, action, detail) from a Unix time on, oldest first."""
    rows = store.rows(
        "SELECT time, who, via, action, detail FROM audit WHERE cluster = ? AND time >= ? ORDER BY id",
        (cluster, since),
    )
    return [dict(row) for row in rows]


def audited(store: Store, user: str = "", since: float = 0.0) -> list[dict[str, Any]]:
    """Who has done what (time, who, via, action, cluster, detail), oldest first: of one user, from a Unix time on.

    Who is no administrator sees what they have done themselves.
    """
    acts = store.user
    if not store.exists or (user and user != acts.name and not acts.administrator):
        return []
    rows = store.rows(
        "SELECT time, who, via, action, cluster, detail FROM audit"
        " WHERE time >= ? AND (? = '' OR who = ?) ORDER BY id",
        (since, *[user if acts.administrator else acts.name] * 2),
    )
    return [dict(row) for row in rows]
