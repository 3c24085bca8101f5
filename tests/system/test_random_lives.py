"""Lives of clusters at random, on real nodes, with a keeper: after each step all is as a model says.

Created, applied, resized, crashed, stopped and started, renewed, expired, copied and restored, destroyed, with a volume
that outlives them; whoever is at work is killed in the middle and begins again.  At the end each node has what its user
left there last.  `tests/unit/life/test_random_lives.py` does more of it, on hosts that only keep books.  Environment
variables: VCLUST_NODES_LIVES_SEED, which a failure names, and VCLUST_NODES_LIVES_STEPS (default 30).
"""

import contextlib
import itertools
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from checker import check
from keeperunit import keeper_unit
from life.deeds import Deed, Deeds
from machine import BIN, Vclust, left_since, local, snapshot
from test_life import kill, kill_all, rows, wait_for

from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.long]

NAMES = ("lives-a", "lives-b")
GRACE = 3600
VOLUME = "lives"
TAG = "kept"
NOTHING = "nothing"


@dataclass(frozen=True)
class Disk:
    """Of a node: no two have the same number; `work` is what a user has left there."""

    number: int
    work: str = NOTHING


@dataclass(frozen=True)
class Life:
    """What a cluster is to be."""

    disks: tuple[Disk, ...]
    bob: bool
    package: bool
    lease: str
    volume: bool
    install: str
    ready: bool = True
    """Else it is stopped."""
    ended: bool = False
    """Its lease has."""
    snapshot: "Life | None" = None
    whole: bool = True
    """As a snapshot: no node has gone, which takes its copies along."""
    crashed: frozenset[int] = field(default_factory=frozenset)
    """Numbers of disks whose nodes the keeper has started again: it takes its time for a second crash."""

    def request(self, name: str) -> str:
        letter = name[-1]
        lines = ["[Hardware]", f"NumberOfNodes: {len(self.disks)}", "RAM: 256MB"]
        lines += [f"Volume: {VOLUME} 1GB keep"] * self.volume
        lines += ["[Software]", "User: alice:*", *["User: bob:*"] * self.bob, f"Hostname: {letter}%02d"]
        lines += [f"Network: 192.168.{90 + NAMES.index(name)}.0/24", *["Packages: hello"] * self.package]
        lines += [f"Lease: {self.lease}"] * bool(self.lease)
        return "\n".join([*lines, f"Install: {self.install}", ""])

    def nodes(self, name: str) -> list[str]:
        return [f"{name[-1]}{number:02d}" for number in range(1, len(self.disks) + 1)]


class Lives(Deeds):
    def __init__(self, vclust: Vclust, site: Site) -> None:
        super().__init__("VCLUST_NODES_LIVES", seed="17", steps=30)
        self.vclust, self.site = vclust, site
        self.lives: dict[str, Life] = {}
        self.volume: str | None = None
        """What was left on it; None: there is none."""
        self.numbers = itertools.count(1)
        self.hurried = False
        """Whether the next command is killed in the middle."""

    # What people do ------------------------------------------------------------------------------------------------

    def say(self, *words: str | Path, refused: bool = False) -> str:
        if self.hurried and not refused:
            argv = [str(BIN / "vclust"), "-i", str(self.vclust.inventory), *map(str, words)]
            running = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(self.random.uniform(0.5, 20))
            self.came_of_it("killed" if running.poll() is None else "done before it was killed")
            kill_all(running)
        if refused:
            self.came_of_it("refused")
        elif self.hurried and words[0] == "destroy" and words[1] not in self.states():
            return ""  # it came to its end
        said = self.vclust(*words, code=2 if refused else 0)
        assert "Traceback" not in said
        return said

    def write_request(self, name: str, life: Life) -> Path:
        return self.vclust.request(name, life.request(name))

    def create(self, name: str) -> None:
        old = self.lives.get(name)
        if old is not None:
            self.say("create", self.write_request(name, old))
            self.lives[name] = replace(old, ready=True, ended=False)
            return
        taken = any(life.volume for life in self.lives.values())
        life = Life(
            disks=self.disks(self.random.randint(1, 2)),
            bob=self.random.random() < 0.5,
            package=self.random.random() < 0.5,
            lease=self.random.choice(("", "8h", "8h")),
            volume=self.random.random() < (0.2 if taken else 0.6),
            install=self.random.choice(("once", "each")),
        )
        if refused := life.volume and taken:
            self.say("create", self.write_request(name, life), refused=refused)
            self.vclust("destroy", name)
            return
        self.say("create", self.write_request(name, life))
        self.lives[name] = life
        if life.volume:
            there = self.ask(name, 1, f"cat /srv/{VOLUME}/work 2> /dev/null || echo {NOTHING}")
            assert there == [self.volume or NOTHING]
            self.volume = str(next(self.numbers))
            self.ask(name, 1, f"echo {self.volume} > /srv/{VOLUME}/work; sync")
        self.work(name)

    def disks(self, count: int) -> tuple[Disk, ...]:
        return tuple(Disk(next(self.numbers)) for _ in range(count))

    def resized(self, life: Life, count: int) -> Life:
        kept = life.snapshot
        if kept is not None and count < len(kept.disks):
            kept = replace(kept, disks=kept.disks[:count], whole=False)
        return replace(life, disks=(*life.disks[:count], *self.disks(count - len(life.disks))), snapshot=kept)

    def apply(self, name: str) -> None:
        old = self.lives.get(name)
        if old is None or not old.ready:
            path = self.write_request(name, old or Life(self.disks(1), False, False, "", False, "once"))
            self.say("apply", path, refused=True)
            return
        life = replace(
            self.resized(old, self.random.randint(1, 3)),
            bob=self.random.random() < 0.5,
            package=self.random.random() < 0.5,
            lease=self.random.choice(("", "8h", "9h")),
        )
        self.say("apply", self.write_request(name, life))
        self.lives[name] = life
        self.work(name)

    def resize(self, name: str) -> None:
        old, count = self.lives.get(name), self.random.randint(1, 3)
        self.say("resize", name, str(count), refused=old is None or not old.ready)
        if old is not None and old.ready:
            self.lives[name] = self.resized(old, count)
            self.work(name)

    def stop(self, name: str) -> None:
        old = self.lives.get(name)
        self.say("stop", name, refused=old is None)
        if old is not None:
            self.lives[name] = replace(old, ready=False)

    def start(self, name: str) -> None:
        old = self.lives.get(name)
        self.say("start", name, refused=old is None)
        if old is not None:
            self.lives[name] = replace(old, ready=True, ended=False)

    def renew(self, name: str) -> None:
        old = self.lives.get(name)
        self.say("renew", name, "9h", refused=old is None or not old.lease)
        if old is not None and old.lease:
            self.lives[name] = replace(old, ended=False)

    def destroy(self, name: str) -> None:
        self.say("destroy", name, refused=name not in self.lives)
        self.lives.pop(name, None)

    def take_snapshot(self, name: str) -> None:
        """Or remove the one there is."""
        old = self.lives.get(name)
        remove = ["--remove"] if old is not None and old.snapshot else []
        self.say("snapshot", name, TAG, *remove, refused=old is None)
        if old is not None:
            self.lives[name] = replace(old, snapshot=None if remove else replace(old, snapshot=None))
            self.work(name)

    def restore(self, name: str) -> None:
        old = self.lives.get(name)
        kept = old.snapshot if old is not None else None
        if old is None or kept is None or not _fits(old, kept):
            self.say("restore", name, TAG, refused=True)
            return
        self.say("restore", name, TAG)
        self.lives[name] = replace(old, disks=kept.disks)

    def remove_volume(self, name: str) -> None:
        used = any(life.volume for life in self.lives.values())
        self.say("volume", "remove", VOLUME, refused=used)
        self.volume = self.volume if used else None

    def hurry(self, name: str) -> None:
        """Somebody is killed in the middle of something, and says it again."""
        life = self.lives.get(name)
        running: tuple[Deed, ...] = (self.apply, self.apply, self.stop, self.destroy)
        deed = self.random.choice(running if life is not None and life.ready else (self.create,))
        self.came_of_it(deed.__name__)
        self.hurried = True
        deed(name)

    # What happens --------------------------------------------------------------------------------------------------

    def crash(self, name: str) -> None:
        life = self.lives.get(name)
        if life is None or not life.ready:
            self.came_of_it("nothing runs")
            return
        position = self.random.randrange(len(life.disks))
        domain, before = f"{life.nodes(name)[position]}.{name}", domains()
        kill(domain)
        wait_for("its end", lambda: domains().get(domain) != before[domain], 30)
        if life.disks[position].number in life.crashed or self.random.random() < 0.5:
            self.came_of_it("healed by hand")
            self.say("heal", name)
            return
        wait_for("its start", lambda: domains().get(domain, before[domain]) != before[domain])
        wait_for("the node", lambda: self.states()[name] == "ready")
        self.lives[name] = replace(life, crashed=life.crashed | {life.disks[position].number})

    def expire(self, name: str) -> None:
        """Its lease ends; where that is so, the time for which its disks are kept."""
        life = self.lives.get(name)
        if life is None or not life.lease:
            self.came_of_it("it has none")
        elif life.ended:
            rows(self.site, "UPDATE clusters SET ended = ended - ? WHERE name = ?", GRACE, name)
            wait_for("its removal", lambda: name not in self.states())
            del self.lives[name]
        else:
            rows(self.site, "UPDATE clusters SET ends = 5 WHERE name = ? AND destroyed IS NULL", name)
            ended = "SELECT ended FROM clusters WHERE name = ? AND destroyed IS NULL AND ended IS NOT NULL"
            wait_for("its end", lambda: rows(self.site, ended, name))
            self.lives[name] = replace(life, ready=False, ended=True)

    # One after the other -------------------------------------------------------------------------------------------

    def step(self) -> None:
        deeds: tuple[Deed, ...] = (
            *[self.create] * 4, *[self.apply] * 4, self.resize, *[self.crash] * 3, *[self.stop] * 2, self.start,
            self.renew, *[self.expire] * 3, *[self.take_snapshot] * 3, *[self.restore] * 2, self.destroy,
            self.remove_volume, *[self.hurry] * 3,
        )  # fmt: skip
        deed, name = self.choose(deeds if self.lives else (self.create,), self.names_for)
        begun = time.monotonic()
        deed(name)
        self.hurried = False
        print(f"\nLIVES {time.monotonic() - begun:.0f} s: {self.done[-1]}", end="", flush=True)
        assert self.wrong() == [], self.told()

    def names_for(self, deed: Deed) -> Sequence[str]:
        """Mostly those with which something comes of it."""
        ready = [name for name, life in self.lives.items() if life.ready]
        others = [name for name in NAMES if name not in ready]
        known = [name for name, life in self.lives.items() if life.snapshot and _fits(life, life.snapshot)]
        best = {self.create: others, self.start: others, self.restore: known}.get(deed, ready)
        return [*best * 5, *NAMES]

    # What must be so -----------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.vclust.json("list")}

    def ask(self, name: str, node: int, command: str) -> list[str]:
        return self.vclust("ssh", name, str(node), "--", command).splitlines()

    def work(self, name: str) -> None:
        """Something is left on each disk that has nothing, and on one that has."""
        life = self.lives[name]
        if not life.ready:
            return
        again = self.random.choice(life.disks)
        disks = list(life.disks)
        for position, disk in enumerate(disks):
            if disk.work == NOTHING or disk == again:
                disks[position] = replace(disk, work=str(next(self.numbers)))
                self.ask(name, position + 1, f"echo {disks[position].work} > work; sync")
        self.lives[name] = replace(life, disks=tuple(disks))

    def wrong(self) -> list[str]:
        """Differences between the model and what there is, and whatever does not fit together."""
        expected = {name: "ready" if life.ready else "stopped" for name, life in self.lives.items()}
        runs = {
            f"{node}.{name}" for name, life in self.lives.items() for node in life.nodes(name) if life.ready
        }
        disks = {
            f"{name}/{node}{tag}.qcow2"
            for name, life in self.lives.items()
            for one, tag in ((life, ""), (life.snapshot, f"@{TAG}"))
            for node in (one.nodes(name) if one else ())
        }
        user = next((name for name, life in self.lives.items() if life.volume), "")
        volumes = [] if self.volume is None else [(VOLUME, user)]
        there = {
            f"{path.parent.name.partition('.')[0]}/{path.name}"
            for path in self.site.clusters.glob("*/*.qcow2")
            if path.name != "volume.qcow2"
        }
        listed = [(one["name"], one["cluster"]) for one in self.vclust.json("volume", "list")]
        pairs = {
            "states": (self.states(), expected),
            "domains": (set(domains()), runs),
            "disks": (there, disks),
            "volumes": (listed, volumes),
        }
        return [
            *(
                f"{what}: {found}, expected {wanted}"
                for what, (found, wanted) in pairs.items()
                if found != wanted
            ),
            *check(self.site.root),
        ]

    def lost(self, name: str) -> list[str]:
        """What its nodes have that is not as the model says."""
        life, told = self.lives[name], []
        look = "hostname; cat work; id -un bob 2> /dev/null || echo nobody; command -v hello || echo none"
        for position, (node, disk) in enumerate(zip(life.nodes(name), life.disks, strict=True)):
            expected = [node, disk.work, "bob" if life.bob else "nobody"]
            expected.append("/usr/bin/hello" if life.package else "none")
            if position == 0 and life.volume:
                expected.append(self.volume or NOTHING)
            words = look + (f"; cat /srv/{VOLUME}/work" if position == 0 and life.volume else "")
            if (found := self.ask(name, position + 1, words)) != expected:
                told.append(f"{name}: {node}: {found}, expected {expected}")
        return told


def _fits(life: Life, kept: Life) -> bool:
    """Whether it still has the nodes and packages of its snapshot."""
    numbers = [[disk.number for disk in one.disks] for one in (life, kept)]
    return kept.whole and numbers[0] == numbers[1] and life.package == kept.package


def domains() -> dict[str, str]:
    """The running domains and their numbers, which change with every start."""
    listed = subprocess.run(["virsh", "-q", "list", "--name", "--id"], capture_output=True, text=True)
    found = dict(reversed(line.split()) for line in listed.stdout.splitlines() if line)
    return {name: number for name, number in found.items() if name.endswith(NAMES)}


@pytest.fixture
def before(vclust: Vclust) -> dict[str, set[str]]:
    return snapshot()


@pytest.fixture
def vclust(site: Site, tmp_path: Path) -> Iterator[Vclust]:
    command = local(tmp_path, root=site.root, lease_grace=f"{GRACE}s")
    for again in (True, False):
        command.clear()
        for volume in command.json("volume", "list"):
            command("volume", "remove", volume["name"])
        if again:
            yield command


def test_lives_at_random(site: Site, vclust: Vclust, before: dict[str, set[str]]) -> None:
    lives = Lives(vclust, site)
    with keeper_unit(site.root, lease_grace=f"{GRACE}s"):
        for _ in range(lives.steps):
            lives.step()
        for name in list(lives.lives):
            lives.start(name)
        assert (lives.wrong(), [line for name in lives.lives for line in lives.lost(name)]) == ([], []), (
            lives.told()
        )
        for name in list(lives.lives):
            lives.destroy(name)
        lives.remove_volume("")
        assert lives.wrong() == [], lives.told()
    assert not list(site.clusters.glob("*"))
    assert left_since(before) == {}, lives.told()
