"""What a site would tell, as plain data: a cluster as `vclust_py.site.describe` has it, and a site's overview."""

import random
from typing import Any

BEGUN = 1_700_000_000.0


def phase(name: str, start: float, seconds: float, outcome: str = "done", count: int = 0) -> dict[str, Any]:
    """`start` in seconds after the first phase began."""
    start += BEGUN
    row = {"phase": name, "node": "", "start": start, "end": start + seconds, "bytes": count}
    return row | {"outcome": outcome, "seconds": seconds}


def part(name: str, node: str, start: float, seconds: float, outcome: str = "done") -> dict[str, Any]:
    return phase(name, start, seconds, outcome) | {"node": node}


def a_cluster(nodes: int = 4, hosts: int = 2, *, failed: int = 1, text: str = "") -> dict[str, Any]:
    """Taken up again an hour later; the last `failed` nodes have failed.  `text` is put wherever others may write."""
    dice = random.Random(1)  # noqa: S311 - the same numbers each time
    names = [f"n{number:05d}" for number in range(nodes)]
    host_of = {name: f"h{number % hosts}" for number, name in enumerate(names)}
    lost = set(names[nodes - failed :])
    phases = [
        phase("resolve", 0, 2.1),
        phase("cache", 2.1, 0.2),
        phase("place", 2.4, 0.6),
        phase("image", 3, 12.5, f"failed: the disk of the site manager is full {text}", 0),
        phase("image", 3600, 20.2, count=120_000_000),
        phase("distribute", 3621, 6.5, count=hosts * 120_000_000),
        phase("create", 3628, 5.0),
        phase("install", 3633, 9.0),
        phase("ready", 3642, 14.0),
    ]
    parts = []
    for number in range(hosts):
        outcome = "done" if number else f"done; gets nothing from h1 {text}"
        row = part("distribute", f"h{number}", 3621, 4 + number / hosts, outcome)
        parts.append(row | {"bytes": 120_000_000})
    for number, name in enumerate(names):
        parts.append(part("create", name, 3628 + 4 * number / nodes, 0.5 + dice.random() / 2))
        parts.append(part("install", name, 3633, 4 + 4 * dice.random()))
        outcome = (
            f"no report after 900 s; its console ended with:\n    panic {text}" if name in lost else "done"
        )
        parts.append(part("ready", name, 3642, 6 + 7 * dice.random(), outcome))
    return {
        "name": "bio",
        "state": "ready",
        "generation": 1,
        "detail": f"without {', '.join(sorted(lost)[:3])}, which failed {text}" if lost else "",
        "created": BEGUN,
        "ready": BEGUN + 3656,
        "strategy": "once",
        "lock": "",
        "cache": {
            "digest": "3f9a" * 16,
            "packages": 61,
            "bytes": 410_000_000,
            "of": 620_000_000,
            "seconds": 31.0,
        },
        "estimate": {
            "seconds": {"image": 18.0, "distribute": 6.0, "create": 5.5, "install": 7.0, "ready": 16.0},
            "errors": {"image": 2.0, "ready": 3.0},
            "medians": ["create"],
            "unknown": [],
        },
        "reason": text,
        "images": {},
        "request": {"hardware": {"number_of_nodes": nodes, "cpus": 2, "ram": "2GB"}, "software": {}},
        "nodes": [
            {
                "name": name,
                "address": f"10.0.{number // 256}.{number % 256}",
                "host": host_of[name],
                "accelerator": "kvm",
                "state": "failed" if name in lost else "ready",
                "seen": BEGUN + 3656,
                "mac": "",
            }
            for number, name in enumerate(names)
        ],
        "phases": phases,
        "node_phases": parts,
        "slowest_node": names[0],
        "logs": [{"name": "n1", "path": f"/var/lib/vclust/clusters/bio.1/logs/n1.log {text}", "time": BEGUN}],
        "consoles": dict.fromkeys(sorted(lost)[:20], f"[ 1.0] Linux\nkernel panic {text}"),
        "ssh": {},
    }


def an_overview(hosts: int = 3, requests: int = 40, *, text: str = "") -> dict[str, Any]:
    """The first host does not answer any more, the last never has; half of the creations hit a cache."""
    dice = random.Random(2)  # noqa: S311 - the same numbers each time
    stacks = (range(0, 12), range(8, 20), range(18, 30))
    closures = [sorted({*dice.sample(stacks[number % 3], 8), number % 3 * 10}) for number in range(requests)]
    packages = [
        {"id": number, "name": f"package{number}", "version": "1", "installed_size": 10**6 * (number + 1)}
        for number in range(30)
    ]
    digest = "3f9a" * 16
    return {
        "time": BEGUN,
        "hosts": [
            {
                "name": f"h{number}{text}",
                "state": "reachable" if 0 < number < hosts - 1 else "unreachable",
                "seen": BEGUN - 60,
                "error": "" if 0 < number < hosts - 1 else f"h{number}: no route to host {text}",
                "answered": None if number == hosts - 1 else BEGUN - (7300 if number == 0 else 60),
                "facts": {}
                if number == hosts - 1
                else {
                    "accelerator": "kvm",
                    "cpus": 16,
                    "memory": 64 << 30,
                    "memory_free": 20 << 30,
                    "disk_free": 10**12,
                    "foreign": {"domains": 1, "cpus": 4, "memory": 8 << 30},
                },
                "clusters": {"bio": 4} if number < hosts - 1 else {},
                "cpus": 20 * (number < hosts - 1),
                "memory": (24 << 30) * (number < hosts - 1),
                "disk": 40 << 30,
                "nodes": 4 * (number < hosts - 1),
            }
            for number in range(hosts)
        ],
        "cpu_overcommit": 4,
        "clusters": [
            {
                "name": "bio",
                "owner": f"alice{text}",
                "state": "ready",
                "detail": text,
                "created": BEGUN,
                "nodes": 8,
                "failed": 1,
                "node_states": {"ready": 7, "failed": 1},
                "cpus": 40,
                "memory": 48 << 30,
            }
        ],
        "caches": {
            "history": {"packages": packages, "requests": [{"closure": one} for one in closures]},
            "caches": [
                {
                    "digest": digest,
                    "packages": 2,
                    "holds": ["package0=1", "package3=1"],
                    "own": [],
                    "size": 25_000_000,
                    "bytes": 9_000_000,
                    "uses": 12,
                    "used": BEGUN,
                    "chosen": True,
                    "clusters": [],
                }
            ],
            "status": {},
            "usage": [
                {
                    "time": BEGUN + number,
                    "name": f"c{number}",
                    "cache": digest if dice.random() * 30 < number else "",
                    "bytes": 25_000_000 if number > 10 else 0,
                    "of": 60_000_000,
                }
                for number in range(requests)
            ],
        },
        "history_error": "",
        "space": {
            "root": f"/var/lib/vclust{text}",
            "free": 40 * 10**9,
            "images": {"base": 210_000_000, "layer": 1_900_000_000, "cache": 9_000_000},
            "cache_space": 5 * 10**9,
            "layer_space": 5 * 10**9,
        },
    }
