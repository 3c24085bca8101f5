"""What the command shows of a plan, and of what clusters are now."""

import time

import pytest

from vclust_py.cli import tables

PLAN = {
    "placement": {"n1": "localhost"},
    "addresses": {},
    "site": "one",
    "reason": "",
    "accelerators": {},
    "disk": 1,
    "disk_asked": 1,
    "packages": 3,
    "download": 1500,
    "build": 0,
    "send": 0,
    "base_there": True,
    "layer_there": False,
    "python": True,
    "cache": {},
    "verdicts": [],
    "requests": {"recorded": 3, "next_choice": 50},
    "quota": [],
    "estimate": {"seconds": {}, "errors": {}, "medians": [], "unknown": []},
}


def shown(capsys: pytest.CaptureFixture[str], **values: object) -> str:
    tables.show_plan(PLAN | values)
    return capsys.readouterr().out


def test_what_is_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to build is no cache miss; a cache that is not used has a reason, and one to come a time."""

    def said(**values: object) -> str:
        return shown(capsys, hosts={}, unreachable={}, **values)

    text = said(layer_there=True)
    assert "\nreused: the layer with 3 packages of an earlier request, as it is\n" in text
    assert "miss" not in text
    assert "\nno packages beyond the base image\n" in said(packages=0)
    assert "yet; the next are chosen after request 50, so far: 3\n" in said()
    by_hand = {"recorded": 3, "next_choice": None}
    assert "yet; they are made by `vclust cache rebuild` only\n" in said(requests=by_hand)
    verdicts = [{"digest": str(number) * 64, "reason": f"holds p{number}"} for number in range(5)]
    text = said(verdicts=verdicts)
    assert "none fits, it starts from the base image\n  000000000000 holds p0\n" in text
    assert "\n  222222222222 holds p2\n  2 more caches: vclust cache explain\n" in text
    assert "more cache" not in said(verdicts=verdicts[:3])
    cache = {"digest": "a" * 64, "packages": 1, "bytes": 10, "of": 20, "seconds": None}
    assert "\ncache: hit, aaaaaaaaaaaa with 1 package saves" in said(cache=cache)


def test_nothing_is_no_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    """What is there already takes no time, which says nothing of the rest."""
    estimate = {"seconds": {"image": 0.0}, "errors": {}, "medians": [], "unknown": ["ready"]}
    text = shown(capsys, hosts={}, unreachable={}, estimate=estimate)
    assert "\nestimate: none, this site has no past runs to go by\n" in text


def test_nodes_that_ansible_cannot_work_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert "python3" not in shown(capsys, hosts={}, unreachable={})
    assert "\nno python3 in the nodes: " in shown(capsys, hosts={}, unreachable={}, python=False)


def test_what_a_host_had_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"cpus": 16, "memory": 64 * 10**9, "memory_free": 40 * 10**9}
    hosts = {
        "away": {"state": "active", "answers": False, "facts": facts, "age": 300.0, "nodes": 3},
        "never": {"state": "active", "answers": False, "facts": {}, "age": None, "nodes": 0},
        "old": {"state": "drain", "answers": True, "facts": facts, "age": 0.0, "nodes": 2},
    }
    text = shown(capsys, hosts=hosts, unreachable={"away": "no route", "never": "no route"})
    assert (
        "away does not answer, takes no node: no route\n  5 min ago it had 16 CPUs, 64 GB of memory, 40 GB"
        in text
    )
    assert "never does not answer, takes no node: no route\n  it has never answered; 0 nodes" in text
    assert "\ndrained, take no new nodes: old\n" in text


def test_what_is_left_of_a_quota(capsys: pytest.CaptureFixture[str]) -> None:
    quota = [
        {"whose": "user alice", "what": "nodes", "limit": 16, "used": 3, "asked": 4},
        {
            "whose": "project bio",
            "what": "memory",
            "limit": 64 * 10**9,
            "used": 8 * 10**9,
            "asked": 4 * 10**9,
        },
        {"whose": "project bio", "what": "lease", "limit": 5400, "used": 0, "asked": 60},
    ]
    text = shown(capsys, hosts={}, unreachable={}, quota=quota)
    assert "\nquota of user alice: 7 of 16 nodes with this\n" in text
    assert "\nquota of project bio: 12 GB of 64 GB memory with this\n" in text
    assert "\nquota of project bio: a lease of 1.5 h at most\n" in text


@pytest.mark.parametrize(
    ("seconds", "age"), [(5, "5 s"), (119, "119 s"), (7199, "120 min"), (7200, "2 h"), (200000, "2 days")]
)
def test_age_of_knowledge(capsys: pytest.CaptureFixture[str], seconds: float, age: str) -> None:
    facts = {"cpus": 1, "memory": 1, "memory_free": 1}
    host = {"state": "active", "answers": False, "facts": facts, "age": seconds, "nodes": 0}
    assert f"\n  {age} ago it had 1 CPUs" in shown(capsys, hosts={"h": host}, unreachable={"h": "gone"})


def test_how_the_nodes_of_a_cluster_have_started(capsys: pytest.CaptureFixture[str]) -> None:
    node = {"address": "10.0.0.1", "host": "h", "accelerator": "tcg", "state": "ready", "seen": 0.0}
    starts = {"n1": ("fork", ""), "n2": ("boot", "no"), "n3": ("boot", "gone"), "n4": ("boot", "no")}
    starts["n5"] = ("resume", "")
    cluster = {
        "name": "c",
        "state": "ready",
        "detail": "",
        "ends": None,
        "request": {"hardware": {"number_of_nodes": 5, "cpus": 1, "ram": "512MB"}},
        "strategy": "once",
        "cache": {},
        "estimate": {},
        "phases": [],
        "node_phases": [],
        "slowest_node": None,
        "homes": False,
        "updates": {},
        "logs": [],
    }
    nodes = [
        node | {"name": name, "start": start, "start_detail": why} for name, (start, why) in starts.items()
    ]
    tables.show_cluster({**cluster, "nodes": nodes})
    assert (
        "\n1 of 5 nodes started as clones of a template\n1 of 5 nodes started from a suspended installer\n"
        "booted instead: n2, n4: no\nbooted instead: n3: gone\n" in capsys.readouterr().out
    )
    tables.show_cluster({**cluster, "nodes": [node | {"name": "n1", "start": "boot", "start_detail": ""}]})
    assert "boot" not in capsys.readouterr().out


def test_what_clusters_are_now(capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    three = [{"state": "ready"}, {"state": "ready"}, {"state": "failed"}]
    one_away = [*three[:2], {"state": "unknown"}]
    clusters = [
        {"name": "good", "state": "ready", "seen": now + 3600, "ready_nodes": 3, "nodes": three},
        {"name": "less", "state": "degraded", "seen": now - 300, "ready_nodes": 2, "nodes": three},
        {"name": "away", "state": "degraded", "seen": 0.0, "ready_nodes": 2, "nodes": one_away},
        {"name": "gone", "state": "unknown", "seen": now, "ready_nodes": 0, "nodes": three},
        {"name": "off", "state": "stopped", "seen": now, "ready_nodes": 0, "nodes": three},
    ]
    tables.show_list([{"created": 0.0, "ends": None, "removed": None, **cluster} for cluster in clusters])
    lines = [[word for word in line.split("  ") if word] for line in capsys.readouterr().out.splitlines()]
    long_ago = time.strftime("%Y-%m-%d %H:%M", time.localtime(0))
    assert [(name.strip(), state.strip()) for name, state, *_ in lines[1:]] == [
        ("good", "ready"),
        ("less", "degraded (2 of 3 nodes)"),
        ("away", f"degraded (2 of 3 nodes, 1 unknown since {long_ago})"),
        ("gone", f"unknown since {time.strftime('%H:%M', time.localtime(now))}"),
        ("off", "stopped"),
    ]
    ages = [line[3].strip() for line in lines[1:]]
    assert ages[:2] == ["now", "5 min ago"]  # a clock that was set back makes nothing younger than now
    assert ages[4] == "now"


def test_how_much_of_a_lease_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    usual = {"created": 0.0, "state": "ready", "seen": now, "ready_nodes": 0, "nodes": [], "removed": None}
    leases = [
        {"ends": None},
        {"ends": now + 7230},
        {"ends": now - 5},
        {"ends": now - 5, "removed": now + 86370},
    ]
    tables.show_list([{"name": "x", **usual, **one} for one in leases])
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    found = [[word.strip() for word in line if word.strip()][4:-1] for line in lines]
    assert found == [["LEASE"], [], ["2 h left"], ["ended"], ["ended, removed in 24 h"]]
    tables.show_list([{"name": "x", **usual, "ends": None}])
    assert "LEASE" not in capsys.readouterr().out


def test_what_has_happened(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"time": 0.0, "who": "alice", "via": "", "action": "renew", "detail": "4h"}
    tables.show_events({"events": [event, event | {"who": "root", "via": "keeper", "action": "heal"}]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2:] for line in lines[1:]] == [
        ["alice", "renew", "4h"],
        ["root", "(by", "keeper)", "heal", "4h"],
    ]


def test_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"phase": "install", "node": "", "start": 5.0, "seconds": 2.0, "outcome": "failed: n2: no disk"}
    node = row | {"node": "n2", "start": 6.0, "outcome": "seed: no\ndisk"}
    tables.show_logs({"phases": [row], "node_phases": [node], "consoles": {"n2": "a\n\x1b[2Jb"}, "logs": []})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" install: failed: n2: no disk (2.0 s)")
    assert lines[1].endswith(" install: n2: seed: no")
    assert lines[2:] == ["disk (2.0 s)", "", "console of n2, its end:", "  a", "  \\x1b[2Jb"]
    log = {"name": "n2", "path": "/x/n2.log", "time": 0.0, "text": "dpkg: error\na\n\x1b[2Jb"}
    tables.show_logs({"phases": [], "node_phases": [], "consoles": {"n2": "a\n\x1b[2Jb"}, "logs": [log]})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("log of n2, which failed ")
    assert lines[1].endswith(": /x/n2.log")
    assert lines[2:] == ["  dpkg: error", "  a", "  \\x1b[2Jb"]
