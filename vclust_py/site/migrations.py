"""The forms that the site's database has had, each a numbered step from the one before it.

A new database goes through all of them, so that there is one way to each form.  A step is never edited once it has
landed; the next change of form is a new one at the end.
"""

import hashlib
import sqlite3
from collections.abc import Callable

Step = Callable[[sqlite3.Connection], None]


def _run(connection: sqlite3.Connection, script: str) -> None:
    # Not executescript(): it would commit the transaction around the steps.
    for statement in script.split(";"):
        connection.execute(statement)


def _first(connection: sqlite3.Connection) -> None:
    _run(
        connection,
        """
        CREATE TABLE clusters (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            request TEXT NOT NULL,
            digest TEXT NOT NULL,
            state TEXT NOT NULL,
            lock TEXT NOT NULL DEFAULT '',
            strategy TEXT NOT NULL DEFAULT '',
            images TEXT NOT NULL DEFAULT '{}',
            detail TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL,
            ready REAL,
            destroyed REAL
        );
        CREATE UNIQUE INDEX live ON clusters (name) WHERE destroyed IS NULL;
        CREATE TABLE nodes (
            cluster INTEGER NOT NULL REFERENCES clusters (id),
            position INTEGER NOT NULL,
            name TEXT NOT NULL,
            host TEXT NOT NULL,
            uri TEXT NOT NULL,
            address TEXT NOT NULL,
            mac TEXT NOT NULL,
            uuid TEXT NOT NULL,
            cpus INTEGER NOT NULL,
            memory INTEGER NOT NULL,
            disk INTEGER NOT NULL,
            state TEXT NOT NULL,
            PRIMARY KEY (cluster, position)
        );
        CREATE TABLE phases (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            cluster INTEGER NOT NULL REFERENCES clusters (id),
            phase TEXT NOT NULL,
            node TEXT NOT NULL DEFAULT '',
            start REAL NOT NULL,
            end REAL,
            bytes INTEGER NOT NULL DEFAULT 0,
            outcome TEXT NOT NULL DEFAULT 'running',
            facts TEXT NOT NULL DEFAULT '{}'
        );
        CREATE TABLE progress (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            cluster INTEGER NOT NULL REFERENCES clusters (id),
            phase TEXT NOT NULL,
            node TEXT NOT NULL,
            message TEXT NOT NULL,
            done INTEGER NOT NULL,
            total INTEGER NOT NULL,
            time REAL NOT NULL
        );
        CREATE TABLE audit (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time REAL NOT NULL,
            who TEXT NOT NULL,
            action TEXT NOT NULL,
            cluster TEXT NOT NULL,
            detail TEXT NOT NULL
        )
        """,
    )


def _xen(connection: sqlite3.Connection) -> None:
    _run(connection, "ALTER TABLE nodes ADD COLUMN guest TEXT NOT NULL DEFAULT ''")


def _caches(connection: sqlite3.Connection) -> None:
    _run(
        connection,
        """
        ALTER TABLE clusters ADD COLUMN cache TEXT NOT NULL DEFAULT '{}';
        CREATE TABLE history (
            cluster INTEGER PRIMARY KEY REFERENCES clusters (id),
            time REAL NOT NULL,
            suite TEXT NOT NULL,
            architecture TEXT NOT NULL,
            kernel TEXT NOT NULL,
            packages TEXT NOT NULL,
            bytes INTEGER NOT NULL
        );
        CREATE TABLE uses (
            digest TEXT PRIMARY KEY,
            used REAL NOT NULL DEFAULT 0,
            count INTEGER NOT NULL DEFAULT 0,
            chosen INTEGER NOT NULL DEFAULT 0
        );
        CREATE TABLE rebuilds (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            start REAL NOT NULL,
            end REAL,
            seen INTEGER NOT NULL,
            outcome TEXT NOT NULL DEFAULT 'running',
            message TEXT NOT NULL DEFAULT '',
            done INTEGER NOT NULL DEFAULT 0,
            total INTEGER NOT NULL DEFAULT 0,
            facts TEXT NOT NULL DEFAULT '{}'
        )
        """,
    )


def _sent(connection: sqlite3.Connection) -> None:
    """Image files that were sent to hosts, or were about to be, and what each stands on."""
    _run(
        connection,
        """
        CREATE TABLE sent (
            host TEXT NOT NULL,
            name TEXT NOT NULL,
            digest TEXT NOT NULL,
            backing TEXT,
            PRIMARY KEY (host, name)
        )
        """,
    )


def _spec_and_observed(connection: sqlite3.Connection) -> None:
    """What a cluster should be (spec, generation) apart from what it was seen to be; what must be unique is."""
    _run(
        connection,
        """
        ALTER TABLE clusters RENAME COLUMN request TO spec;
        ALTER TABLE clusters ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
        ALTER TABLE clusters ADD COLUMN segment TEXT;
        ALTER TABLE clusters ADD COLUMN network INTEGER;
        CREATE UNIQUE INDEX segments ON clusters (segment);
        CREATE UNIQUE INDEX networks ON clusters (network);
        CREATE TABLE observed_nodes (
            cluster INTEGER NOT NULL,
            position INTEGER NOT NULL,
            state TEXT NOT NULL,
            seen REAL NOT NULL,
            PRIMARY KEY (cluster, position),
            FOREIGN KEY (cluster, position) REFERENCES nodes (cluster, position) ON DELETE CASCADE
        );
        INSERT INTO observed_nodes (cluster, position, state, seen)
            SELECT nodes.cluster, position, nodes.state, coalesce(ready, created)
            FROM nodes JOIN clusters ON clusters.id = nodes.cluster;
        ALTER TABLE nodes DROP COLUMN state;
        CREATE UNIQUE INDEX node_names ON nodes (cluster, name);
        CREATE UNIQUE INDEX node_addresses ON nodes (cluster, address);
        CREATE UNIQUE INDEX node_macs ON nodes (cluster, mac);
        CREATE UNIQUE INDEX node_uuids ON nodes (uuid);
        CREATE INDEX cluster_phases ON phases (cluster);
        CREATE INDEX past_phases ON phases (phase, outcome) WHERE node = '';
        CREATE INDEX cluster_progress ON progress (cluster);
        CREATE TABLE observed_hosts (
            host TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            seen REAL NOT NULL,
            facts TEXT NOT NULL DEFAULT '{}'
        );
        CREATE TABLE resolutions (key TEXT PRIMARY KEY, lock TEXT NOT NULL, used REAL NOT NULL);
        UPDATE clusters SET state = 'destroyed' WHERE destroyed IS NOT NULL
        """,
    )
    rows = connection.execute(
        "SELECT id, name, created FROM clusters WHERE destroyed IS NULL ORDER BY id"
    ).fetchall()
    used: set[int] = set()
    for number, name, created in rows:
        # As versions before this one reckoned both, so that segments that are there keep name and number.
        segment = "vc" + hashlib.sha256(f"{number} {name} {created!r}".encode()).hexdigest()[:10]
        network = int(segment[2:8], 16) or 1
        while network in used:
            network = network % 0xFFFFFF + 1
        used.add(network)
        connection.execute(
            "UPDATE clusters SET segment = ?, network = ? WHERE id = ?", (segment, network, number)
        )


def _age_of_facts(connection: sqlite3.Connection) -> None:
    """When a host has answered last, apart from when it was asked last; and why it does not answer.

    What a host said that did not answer at the last look is of an unknown age, and forgotten.
    """
    _run(
        connection,
        """
        ALTER TABLE observed_hosts ADD COLUMN answered REAL;
        ALTER TABLE observed_hosts ADD COLUMN error TEXT NOT NULL DEFAULT '';
        UPDATE observed_hosts SET answered = seen WHERE state = 'reachable';
        UPDATE observed_hosts SET facts = '{}' WHERE answered IS NULL
        """,
    )


def _time_models(connection: sqlite3.Connection) -> None:
    """What was fitted to past runs; what each cluster was expected to take, and why it is at this site."""
    _run(
        connection,
        """
        CREATE TABLE time_models (until INTEGER NOT NULL, fitted REAL NOT NULL, models TEXT NOT NULL);
        ALTER TABLE clusters ADD COLUMN estimate TEXT NOT NULL DEFAULT '{}';
        ALTER TABLE clusters ADD COLUMN reason TEXT NOT NULL DEFAULT ''
        """,
    )


def _owners(connection: sqlite3.Connection) -> None:
    """Whose each cluster is; before, only the audit told.  By which account somebody has come."""
    _run(
        connection,
        """
        ALTER TABLE audit ADD COLUMN via TEXT NOT NULL DEFAULT '';
        CREATE INDEX audit_times ON audit (time);
        ALTER TABLE clusters ADD COLUMN owner TEXT NOT NULL DEFAULT 'root';
        ALTER TABLE clusters ADD COLUMN project TEXT NOT NULL DEFAULT '';
        UPDATE clusters SET owner = coalesce(
            (SELECT who FROM audit WHERE action = 'create' AND audit.cluster = clusters.name
             AND time >= created ORDER BY audit.id LIMIT 1),
            'root'
        )
        """,
    )


def _life(connection: sqlite3.Connection) -> None:
    """When each host has told last what runs there; a cluster's lease; how often nodes were started again, and which
    generation of their cluster's spec they have been told of.  Nodes that leave: another may have their names.
    """
    _run(
        connection,
        """
        ALTER TABLE observed_hosts ADD COLUMN looked REAL;
        ALTER TABLE clusters ADD COLUMN ends REAL;
        ALTER TABLE clusters ADD COLUMN ended REAL;
        ALTER TABLE clusters ADD COLUMN warned REAL;
        ALTER TABLE observed_nodes ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE observed_nodes ADD COLUMN restarted REAL;
        ALTER TABLE observed_nodes ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
        ALTER TABLE nodes ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;
        DROP INDEX node_names;
        DROP INDEX node_addresses;
        DROP INDEX node_macs;
        CREATE UNIQUE INDEX node_names ON nodes (cluster, name) WHERE leaving = 0;
        CREATE UNIQUE INDEX node_addresses ON nodes (cluster, address) WHERE leaving = 0;
        CREATE UNIQUE INDEX node_macs ON nodes (cluster, mac) WHERE leaving = 0;
        CREATE INDEX audit_clusters ON audit (cluster, time)
        """,
    )


STEPS: tuple[Step, ...] = (
    _first,
    _xen,
    _caches,
    _sent,
    _spec_and_observed,
    _age_of_facts,
    _time_models,
    _owners,
    _life,
)
"""Step i makes version i + 1 of the database (PRAGMA user_version) of version i."""
