"""Rows of hosts: what the site knows of each and how old that is (paper, section 2.2: the resource monitor).

What a host said last stays when it does not answer any more.
"""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vclust_py.site.condition import Sighting
from vclust_py.site.states import HostState, NodeState
from vclust_py.site.store import Store


@dataclass(frozen=True)
class KnownHost:
    """What the site knows of one host; times are Unix times, sizes bytes."""

    name: str
    state: HostState
    """When it was asked last."""
    seen: float
    """Time at which it was asked last."""
    error: str
    """Why it did not answer then; empty when it did."""
    answered: float | None
    """Time that `facts` are of; None when it has never answered."""
    facts: dict[str, Any]
    """What it said last: the fields of `hypervisor.Capacity` that are numbers or names, and `foreign`, what runs there
    that is not the site's: `domains`, `cpus` (virtual ones), `memory` (all they may take).  {}: it has never answered.
    """
    clusters: dict[str, int]
    """Names of the live clusters that have nodes there, each with how many: as reserved now, not as seen then."""
    cpus: int
    """Virtual CPUs of these nodes."""
    memory: int
    disk: int

    @property
    def nodes(self) -> int:
        """How many nodes of the site are reserved there."""
        return sum(self.clusters.values())


def observe_hosts(store: Store, facts: Mapping[str, Mapping[str, Any]], errors: Mapping[str, str]) -> None:
    """Write down, by host, what those that answered now said of themselves, and why the others did not."""
    now = time.time()
    with store.transaction():
        store.executemany(
            "INSERT INTO observed_hosts (host, state, seen, answered, facts) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (host) DO UPDATE SET state = excluded.state, seen = excluded.seen, error = '',"
            " answered = excluded.answered, facts = excluded.facts",
            [(host, HostState.REACHABLE, now, now, json.dumps(said)) for host, said in facts.items()],
        )
        store.executemany(
            "INSERT INTO observed_hosts (host, state, seen, error) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (host) DO UPDATE SET state = excluded.state, seen = excluded.seen, error = excluded.error",
            [(host, HostState.UNREACHABLE, now, error) for host, error in errors.items()],
        )


@dataclass(frozen=True)
class HostOfNodes:
    """How a host is reached, as its nodes were placed."""

    name: str
    uri: str
    guest: str


def with_nodes(
    store: Store, states: Collection[NodeState], name: str | None = None, *, leaving: bool = False
) -> list[HostOfNodes]:
    """Hosts with nodes in these states, of all live clusters or of the one called `name`; each host once.

    With `leaving` also those with nodes that are yet to be taken away.
    """
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT host, min(uri) AS uri, min(nodes.guest) AS guest FROM nodes"
        " JOIN observed_nodes USING (cluster, position) JOIN clusters ON clusters.id = cluster"
        " WHERE destroyed IS NULL AND (?1 IS NULL OR clusters.name = ?1) AND CASE WHEN leaving THEN ?3"
        " ELSE observed_nodes.state IN (SELECT value FROM json_each(?2)) END GROUP BY host ORDER BY host",
        (name, json.dumps(list(states)), leaving),
    )
    return [HostOfNodes(row["host"], row["uri"], row["guest"]) for row in rows]


def sightings(store: Store) -> dict[str, Sighting]:
    """By host what is written down of when it told last what runs there, and why it does not now."""
    if not store.exists:
        return {}
    rows = store.rows("SELECT host, state, error, looked FROM observed_hosts")
    return {
        row["host"]: Sighting(
            row["looked"] or 0.0,
            error=(row["error"] or "no answer") if row["state"] == HostState.UNREACHABLE else "",
        )
        for row in rows
    }


def record_sightings(store: Store, seen: Mapping[str, Sighting]) -> None:
    """Write down, by host, that it has told what runs there, or why it has not."""
    now = time.time()
    with store.transaction():
        store.executemany(
            "INSERT INTO observed_hosts (host, state, seen, error, looked) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (host) DO UPDATE SET state = excluded.state, seen = excluded.seen, error = excluded.error,"
            " looked = coalesce(excluded.looked, looked)",
            [
                (host, HostState.UNREACHABLE, now, one.error, None)
                if one.error
                else (host, HostState.REACHABLE, now, "", one.time)
                for host, one in seen.items()
            ],
        )


def known_hosts(store: Store) -> list[KnownHost]:
    """Every host that was ever asked, by name: two statements, however many there are."""
    if not store.exists:
        return []
    with store.reading():
        seen = store.rows("SELECT * FROM observed_hosts ORDER BY host")
        reserved: dict[str, list[Any]] = {}
        for row in store.rows(
            "SELECT nodes.host, clusters.name, count(*) AS nodes, sum(cpus) AS cpus, sum(memory) AS memory,"
            " sum(disk) AS disk FROM nodes JOIN clusters ON clusters.id = nodes.cluster"
            " WHERE destroyed IS NULL GROUP BY nodes.host, clusters.id ORDER BY clusters.name"
        ):
            reserved.setdefault(row["host"], []).append(row)
    return [
        KnownHost(
            name=row["host"],
            state=HostState(row["state"]),
            seen=row["seen"],
            error=row["error"],
            answered=row["answered"],
            facts=json.loads(row["facts"]),
            clusters={part["name"]: part["nodes"] for part in reserved.get(row["host"], ())},
            cpus=sum(part["cpus"] for part in reserved.get(row["host"], ())),
            memory=sum(part["memory"] for part in reserved.get(row["host"], ())),
            disk=sum(part["disk"] for part in reserved.get(row["host"], ())),
        )
        for row in seen
    ]


def knows_host(store: Store, host: str) -> bool:
    """Whether anything of the host is written down."""
    tables = ("observed_hosts", "sent")
    return store.exists and any(
        store.rows(f"SELECT 1 FROM {table} WHERE host = ? LIMIT 1", (host,))  # noqa: S608 - names of ours
        for table in tables
    )


def forget_host(store: Store, host: str) -> None:
    """The host is none of the site's any more: what it was seen to have, and what it was sent."""
    for table in ("observed_hosts", "sent"):
        store.execute(f"DELETE FROM {table} WHERE host = ?", (host,))  # noqa: S608 - names of ours


def accelerators(store: Store) -> dict[str, str]:
    """By host: kvm, tcg or xen, as it said when it answered last; empty where it never has."""
    rows = store.rows("SELECT host, json_extract(facts, '$.accelerator') AS accelerator FROM observed_hosts")
    return {row["host"]: row["accelerator"] or "" for row in rows}
