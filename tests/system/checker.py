"""What does not fit together: store, domains, files, networks and certificates of a site and of all its hosts.

`check` gives sentences, none when all is well.  For a moment when nobody is at work: what is only half done then is
left over.  Everything is seen by other ways than vclust's own: sqlite3, processes, virsh, ip, bridge, nft, openssl.  On
this machine only what is the site's counts, by its root; hosts that are other machines are the site's alone.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from machine import output, segments_of

from vclust_py import egress

STARTED = ("started", "installer", "installed", "ready")
"""States of nodes whose domains must run."""
OVERCOMMIT = 4
_THERE = Path("/var/lib/vclust")
_SEGMENT = re.compile(r"vc[0-9a-f]{10}")


@dataclass(frozen=True)
class Machine:
    """A host that is another machine; `shell` gives what a command there prints."""

    name: str
    shell: Callable[[str], str]
    libvirt: str
    """The URI of its own libvirt, as it is called over there."""


@dataclass(frozen=True)
class Node:
    cluster: str
    name: str
    host: str
    machine: str | None
    uuid: str
    mac: str
    cpus: int
    memory: int
    disk: int
    state: str

    @property
    def domain(self) -> str:
        return f"{self.name}.{self.cluster}"


@dataclass(frozen=True)
class Cluster:
    name: str
    folder: str
    state: str
    segment: str
    network: int
    images: dict[str, str]
    nodes: list[Node]

    @property
    def started(self) -> bool:
        return any(node.state in STARTED for node in self.nodes)


@dataclass
class Books:
    """What the store says; `written_off` are folders, domains and networks that it knows to be left on a host."""

    root: Path
    live: list[Cluster] = field(default_factory=list)
    written_off: dict[str, set[str]] = field(default_factory=dict)
    volumes: dict[str, set[str]] = field(default_factory=dict)
    """Their folders by the host's name; of the site manager itself by none."""

    @property
    def nodes(self) -> Iterator[Node]:
        return (node for cluster in self.live for node in cluster.nodes)


@dataclass
class Seen:
    """What there is on one machine."""

    running: dict[str, str] = field(default_factory=dict)
    """By UUID the domain's name."""
    defined: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    """Of clusters, as FOLDER/NAME."""
    broken: set[str] = field(default_factory=set)
    """Disks whose backing files are not all there."""
    links: set[str] = field(default_factory=set)
    rules: dict[str, set[str]] = field(default_factory=dict)
    """Of the packet filter: bridges, chains, numbers."""
    entries: dict[str, str] = field(default_factory=dict)
    """MAC → where VXLAN sends it."""
    cpus: int = 0
    memory: int = 0
    free: int = 0
    written: int = 0


def check(root: Path, machines: Sequence[Machine] = ()) -> list[str]:
    """What is wrong; hosts that are other machines and not in `machines` are not looked at."""
    books, said = read(root), store(root)
    said += common("this machine", books, None, here(root))
    said += manager(books)
    for machine in machines:
        said += common(machine.name, books, machine.name, there(machine))
        said += certificates(root, machine)
    ran = Counter(node.uuid for node in books.nodes)
    return said + [f"{uuid}: {count} nodes have this UUID" for uuid, count in ran.items() if count > 1]


# The store --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _database(root: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"file:{root}/state.db?mode=ro", uri=True, timeout=30)) as opened:
        opened.row_factory = sqlite3.Row
        yield opened


def read(root: Path) -> Books:
    books = Books(root)
    if not (root / "state.db").exists():
        return books
    with _database(root) as database:
        for row in database.execute("SELECT * FROM clusters ORDER BY name"):
            rows = database.execute(
                "SELECT nodes.*, observed_nodes.state FROM nodes JOIN observed_nodes USING (cluster, position)"
                " WHERE cluster = ? ORDER BY position",
                (row["id"],),
            )
            nodes = [
                Node(
                    row["name"],
                    one["name"],
                    one["host"],
                    urlsplit(one["uri"]).hostname,
                    *(one[key] for key in ("uuid", "mac", "cpus", "memory", "disk", "state")),
                )
                for one in rows
            ]
            folder = f"{row['name']}.{row['id']}"
            if row["destroyed"] is None:
                images = json.loads(row["images"])
                books.live.append(
                    Cluster(row["name"], folder, row["state"], row["segment"], row["network"], images, nodes)
                )
            for node in nodes if row["destroyed"] is not None else ():
                books.written_off.setdefault(node.host, set()).update((folder, node.domain, row["segment"]))
        for row in database.execute("SELECT * FROM volumes"):
            host = row["host"] if urlsplit(row["uri"]).hostname else ""
            books.volumes.setdefault(host, set()).add(f"{row['name']}.volume.{row['id']}")
    return books


def store(root: Path) -> list[str]:
    if not (root / "state.db").exists():
        return []
    with _database(root) as database:
        said = [f"state.db: {row[0]}" for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
        said += [
            f"state.db: row of {row[0]} without its {row[2]}"
            for row in database.execute("PRAGMA foreign_key_check")
        ]
        twice = database.execute(
            "SELECT mac, count(*) FROM nodes JOIN clusters ON clusters.id = cluster WHERE destroyed IS NULL"
            " GROUP BY clusters.network, mac HAVING count(*) > 1"
        )
        said += [f"state.db: {row[1]} nodes of a network have the address {row[0]}" for row in twice]
    return said


# What is alike on every machine -----------------------------------------------------------------------------------


def common(name: str, books: Books, host: str | None, seen: Seen) -> list[str]:
    """Of one machine; `host` is its name in the store, None for the site manager itself."""
    nodes = [node for node in books.nodes if (node.machine is None if host is None else node.host == host)]
    clusters = [one for one in books.live if host is None or any(node in one.nodes for node in nodes)]
    known = books.written_off.get(host or "", set())
    wanted = {node.uuid: node for node in nodes}
    said = [
        f"{name}: {domain} runs, and no live cluster has it"
        for uuid, domain in sorted(seen.running.items())
        if uuid not in wanted and domain not in known
    ]
    said += [
        f"{name}: {node.domain} is {node.state} in the store, and does not run"
        for node in nodes
        if node.state in STARTED and node.uuid not in seen.running
    ]
    left = seen.defined - {node.domain for node in nodes} - known
    said += [f"{name}: {domain} is defined, and no live cluster has it" for domain in sorted(left)]
    volumes = books.volumes.get(host or "", set())
    lost = sorted(volumes - seen.folders)
    said += [f"{name}: clusters/{one} is a volume's, and is not there" for one in lost]
    folders = {one.folder for one in clusters} | volumes
    said += [f"{name}: clusters/{one} is no live cluster's" for one in sorted(seen.folders - folders - known)]
    for one in clusters:
        for node in one.nodes:
            disk = f"{one.folder}/{node.name}.qcow2"
            if node in nodes and node.state in STARTED and disk not in seen.files:
                said.append(f"{name}: {node.domain} is {node.state} in the store, and has no disk {disk}")
    said += [f"{name}: {disk}: a file that it stands on is not there" for disk in sorted(seen.broken)]
    said += networks(name, clusters, host, seen, known)
    return said + overbooked(name, nodes, seen)


def networks(name: str, clusters: list[Cluster], host: str | None, seen: Seen, known: set[str]) -> list[str]:
    live = {one.segment: one for one in clusters}
    names = seen.links | {
        f"{one} in the packet filter" for kind in ("bridges", "chains") for one in seen.rules[kind]
    }
    said = [
        f"{name}: network: {one}, and no live cluster has it"
        for one in sorted(names)
        if (match := _SEGMENT.match(one)) and match[0] not in live and match[0] not in known
    ]
    numbers = {str(one.network) for one in clusters}
    if not known:
        said += [
            f"{name}: VXLAN {one} is let in, and is no live cluster's"
            for one in sorted(seen.rules["numbers"] - numbers)
        ]
    for one in clusters:
        if not one.started:
            continue
        tunnel = any(node.machine for node in one.nodes)
        wanted = {one.segment} | ({f"{one.segment}x"} if tunnel else set())
        wanted |= {f"{one.segment}r", f"{one.segment} (namespace)"} if host is None else set()
        said += [f"{name}: {one.name}: its network lacks {lost}" for lost in sorted(wanted - seen.links)]
        if one.segment not in seen.rules["bridges"]:
            said.append(f"{name}: {one.name}: {one.segment} is not kept apart by the packet filter")
        if tunnel and str(one.network) not in seen.rules["numbers"]:
            said.append(f"{name}: {one.name}: its VXLAN {one.network} is not let in")
        for node in one.nodes:
            away = node.machine is not None if host is None else node.host != host
            if tunnel and away and node.machine and seen.entries.get(node.mac) != node.machine:
                said.append(
                    f"{name}: {node.domain}: packets for it go to {seen.entries.get(node.mac)}, not to {node.machine}"
                )
    return said


def overbooked(name: str, nodes: list[Node], seen: Seen) -> list[str]:
    said = []
    cpus, memory = sum(node.cpus for node in nodes), sum(node.memory for node in nodes)
    reserved = sum(node.disk for node in nodes) - seen.written
    for what, taken, there in (
        ("CPUs", cpus, seen.cpus * OVERCOMMIT),
        ("MB of memory", memory >> 20, seen.memory >> 20),
        ("MB of disk", reserved >> 20, seen.free >> 20),
    ):
        if nodes and taken > there:
            said.append(f"{name}: overbooked: {taken} {what} are given away, of {there}")
    return said


# The site manager -------------------------------------------------------------------------------------------------


def here(root: Path) -> Seen:
    """What of this machine is of the site below `root`."""
    seen, own = Seen(), segments_of(root / "state.db") if (root / "state.db").exists() else set[str]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "qemu-system" in words[0] and any(f"{root}/" in word for word in words) and "-uuid" in words:
                guest = next(word for word in words if word.startswith("guest="))
                seen.running[words[words.index("-uuid") + 1]] = guest.removeprefix("guest=").split(",")[0]
    for path in Path("/etc/libvirt/qemu").glob("*.xml"):
        with contextlib.suppress(FileNotFoundError):
            if f"{root}/" in path.read_text(errors="replace"):
                seen.defined.add(path.stem)
    for path in (root / "clusters").glob("*"):
        seen.folders.add(path.name)
        for file in path.glob("*.qcow2"):
            name = f"{path.name}/{file.name}"
            seen.files.add(name)
            seen.written += file.stat().st_blocks * 512
            if _broken(file):
                seen.broken.add(name)
    links = {one["ifname"] for one in json.loads(output("ip", "-json", "link"))}
    spaces = {f"{one['name']} (namespace)" for one in json.loads(output("ip", "-json", "netns") or "[]")}
    seen.links = {one for one in links | spaces if (match := _SEGMENT.match(one)) and match[0] in own}
    rules = _rules(_quietly("nft", "-j", "list", "table", "inet", "vclust_segments"))
    # Other sites on this machine have theirs.
    seen.rules = {kind: {one for one in rules[kind] if one in own} for kind in ("bridges", "chains")}
    seen.rules["numbers"] = {one for one, chain in rules["goto"].items() if chain in own}
    for segment in own & links:
        seen.entries |= _entries(_quietly("bridge", "-json", "fdb", "show", "dev", f"{segment}x"))
    seen.cpus = os.cpu_count() or 0
    seen.memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    seen.free = shutil.disk_usage(root).free
    return seen


def _broken(disk: Path) -> bool:
    words = ["qemu-img", "info", "-U", "--backing-chain", disk]
    return subprocess.run(words, capture_output=True, check=False).returncode != 0


def _quietly(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _rules(text: str) -> dict[str, Any]:
    """nft's JSON of the table: bridges, chains of segments, and by VXLAN number its chain."""
    found: dict[str, Any] = {"bridges": set(), "chains": set(), "goto": {}}
    for item in json.loads(text)["nftables"] if text.strip() else ():
        if item.get("chain") and _SEGMENT.fullmatch(item["chain"]["name"]):
            found["chains"].add(item["chain"]["name"])
        if item.get("set", {}).get("name") == "bridges":
            found["bridges"] |= set(item["set"].get("elem", ()))
        if item.get("map", {}).get("name") == "numbers":
            found["goto"] |= {
                str(key): verdict["goto"]["target"] for key, verdict in item["map"].get("elem", ())
            }
    return found


def _entries(text: str) -> dict[str, str]:
    rows = json.loads(text) if text.strip() else []
    return {row["mac"]: row["dst"] for row in rows if "dst" in row and row["mac"] != "00:00:00:00:00:00"}


def manager(books: Books) -> list[str]:
    """What only the site manager has: images, file locks, mounts, its own certificates."""
    root, said = books.root, list[str]()
    live = {one.name for one in books.live}
    for path in (root / "held").glob("cluster-*"):
        if path.name.removeprefix("cluster-") not in live:
            said.append(f"held/{path.name}: a lock of no live cluster")
    manifests = {path.stem: json.loads(path.read_text()) for path in (root / "images").glob("*.json")}
    digests = {one["digest"]: stem for stem, one in manifests.items()}
    for path in (root / "images").glob("*"):
        if path.suffix == ".tmp":
            said.append(f"images/{path.name}: left over from a build")
        elif path.suffix in (".qcow2", ".img") and path.stem not in manifests:
            said.append(f"images/{path.name}: has no manifest")
        elif path.suffix == ".json" and not list(path.parent.glob(f"{path.stem}.[qi]*")):
            said.append(f"images/{path.name}: its image is not there")
    for one in books.live:
        for role, digest in sorted(one.images.items()):
            while digest and digest in digests:
                digest = manifests[digests[digest]].get("backing")
            if digest:
                said.append(f"{one.name}: its image {role}, or one below it, is not there: {digest[:12]}")
        keys = root / "clusters" / one.folder / "keys/known_hosts"
        if one.started and not keys.exists():
            said.append(f"{one.name}: has no keys on the site manager")
    for folder in ("clusters", "images", "packages", "locks", "pki"):
        said += [
            f"{folder}/{path.name}: a draft"
            for path in (root / folder).glob("**/*.tmp")
            if folder != "images"
        ]
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{root}/images/"):
            said.append(f"{line.split()[1]} is mounted")
    said += ways_out(books)
    if (root / "pki/clientcert.pem").exists():
        said += _certified(
            "this machine: the client's", root, output("cat", str(root / "pki/clientcert.pem"))
        )
    return said


def ways_out(books: Books) -> list[str]:
    """Of clusters: records, the site's relay and its packet filter rules, which go with the last one."""
    root, live = books.root, {one.segment for one in books.live}
    own = segments_of(root / "state.db") if (root / "state.db").exists() else set[str]()
    open_ways = {path.name for path in egress.RUN.glob("vc*")} & own
    said = [f"the way out of {one} is open, and no live cluster has it" for one in sorted(open_ways - live)]
    digest = hashlib.sha256(f"{root}/proxy".encode()).hexdigest()[:12]
    rules = _quietly("nft", "list", "table", "inet", f"vclust_proxy_{digest}")
    relays = _quietly("pgrep", "-f", f"egress_relay.py {root}/proxy$").split()
    if not open_ways and (rules or relays):
        said.append(f"a relay is left over without a cluster: processes {relays}, rules: {bool(rules)}")
    if open_ways and not relays:
        said.append("no relay runs for the ways out that are open")
    return said


def _certified(what: str, root: Path, certificate: str) -> list[str]:
    words = ["openssl", "verify", "-CAfile", str(root / "pki/cacert.pem")]
    done = subprocess.run(words, input=certificate, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"{what} certificate: {' '.join(done.stderr.split())}"]


# Hosts that are other machines ------------------------------------------------------------------------------------

_LOOK = r"""
domains() { virsh -c URI -q list --all --uuid --name "$@" | grep -v '^00000000-0000-0000-0000-000000000000'; }
at() { echo "== $1"; }
at defined; domains
at running; domains --state-running --state-paused
at networks; virsh -c URI -q net-list --all --name
at pools; virsh -c URI -q pool-list --all --name
at nodeinfo; virsh -c URI nodeinfo
at clusters; ls ROOT/clusters
at disks; ls ROOT/clusters/*/*.qcow2 2>/dev/null
at written; du -s --block-size=1 ROOT/clusters
at free; df --output=avail --block-size=1 ROOT | tail -n 1
at broken
for disk in ROOT/clusters/*/*.qcow2; do
    [ ! -e "$disk" ] || qemu-img info -U --backing-chain "$disk" >/dev/null 2>&1 || echo "$disk"
done
at links; ls /sys/class/net
at rules; nft -j list table inet vclust_segments 2>/dev/null
at entries; for link in /sys/class/net/vc*x; do [ ! -e "$link" ] || bridge -json fdb show dev "${link##*/}"; done
true
"""


def there(machine: Machine) -> Seen:
    look = _LOOK.replace("URI", shlex.quote(machine.libvirt)).replace("ROOT", str(_THERE))
    parts: dict[str, list[str]] = {}
    for line in machine.shell(look).splitlines():
        if line.startswith("== "):
            lines = parts.setdefault(line[3:], [])
        elif line.strip():
            lines.append(line.strip())
    seen = Seen()
    for kind in ("running", "defined"):
        for line in parts[kind]:
            uuid, name = line.split()[:2]
            seen.defined.add(name)
            if kind == "running":
                seen.running[uuid] = name
    seen.folders = set(parts["clusters"])
    seen.folders |= {
        pool.removeprefix("vclust-")
        for pool in parts["pools"]
        if re.fullmatch(r"vclust-[a-z0-9-]+(\.volume)?\.\d+", pool)
    }
    below = f"{_THERE}/clusters/"
    seen.files = {line.removeprefix(below) for line in parts["disks"]}
    seen.broken = {line.removeprefix(below) for line in parts["broken"]}
    # libvirt's own network `default` is no cluster's.
    seen.links = {one for one in {*parts["links"], *parts["networks"]} if _SEGMENT.match(one)}
    rules = _rules("\n".join(parts["rules"]))
    seen.rules = {"bridges": rules["bridges"], "chains": rules["chains"], "numbers": set(rules["goto"])}
    for line in parts["entries"]:
        seen.entries |= _entries(line)
    info = dict(line.split(":", 1) for line in parts["nodeinfo"])
    seen.cpus, seen.memory = int(info["CPU(s)"]), int(info["Memory size"].split()[0]) << 10
    seen.written, seen.free = int(parts["written"][0].split()[0]), int(parts["free"][0])
    return seen


def certificates(root: Path, machine: Machine) -> list[str]:
    said = []
    for what, path, key in (
        ("libvirt's", "/etc/pki/libvirt/servercert.pem", "/etc/pki/libvirt/private/serverkey.pem"),
        ("the hop's", "/etc/vclust/hop-cert.pem", "/etc/vclust/hop-key.pem"),
    ):
        said += _certified(f"{machine.name}: {what}", root, machine.shell(f"cat {path}"))
        same = machine.shell(f"openssl x509 -in {path} -noout -pubkey; echo; openssl pkey -in {key} -pubout")
        public = [part.strip() for part in same.split("\n\n")]
        if len(public) != 2 or public[0] != public[1]:
            said.append(f"{machine.name}: {what} certificate is not of its key")
    return said
