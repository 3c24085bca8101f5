#!/usr/bin/env python3
"""What VD caches give, and what they cost, on a real site.

    .venv/bin/python tests/benchmarks/vdcache.py create  --root DIR [--rounds 1] [--request FILE]
    .venv/bin/python tests/benchmarks/vdcache.py replay  --root DIR --requests FILE [--every 20] [--minutes 9]
    .venv/bin/python tests/benchmarks/vdcache.py depth   --root DIR [--rounds 3] [--boot]
    .venv/bin/python tests/benchmarks/vdcache.py record  --root DIR --packages FILE --requests FILE
    .venv/bin/python tests/benchmarks/vdcache.py compress --root DIR [--rounds 3]

create    the same request with and without its VD cache, real nodes, both install strategies, in turns; `vclust
          create` each time, with the request's layer or bundle taken away before
replay    real requests, one after another, phases resolve to image, caches chosen anew every so often; goes on where
          it was after --minutes
depth     the same content as one cache and as a chain of several, compressed and not: reading it, booting from it
record    what a request costs the site's state: its record, the lookup among 1,000 caches, the reservation
compress  what compressing a cache costs, and what reading one costs the request layer over it

Sites are made in DIR, their base images on the first run.  Each run adds its measurements to DIR/COMMAND.jsonl;
printed are medians over all of them (--rounds 0: no new ones).  Needs root.
"""

import argparse
import gzip
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vclust_py import metapackages, request, resolve, timing
from vclust_py.cache import lookup
from vclust_py.cache.history import History
from vclust_py.cache.matching import closure as closure_of
from vclust_py.cache.matching import matching
from vclust_py.cache.policies import policy
from vclust_py.cache.rebuild import rebuild
from vclust_py.cache.simulate import simulate
from vclust_py.errors import RequestError
from vclust_py.hypervisor import Host
from vclust_py.image import Catalogue, Image
from vclust_py.image.base import ensure_base, find_base
from vclust_py.image.builder import Took, cache_key, ensure_cache, ensure_layer, missing_from
from vclust_py.image.manifest import records
from vclust_py.image.store import fetch
from vclust_py.lock import Lock, Package
from vclust_py.phases import Inputs, phase
from vclust_py.request import Request
from vclust_py.run import run
from vclust_py.site import PROJECT, Site, clusters, learning
from vclust_py.site.session import Session

VCLUST = Path(sys.executable).parent / "vclust"

REQUEST = """\
[Hardware]
NumberOfNodes: 2
RAM: 512MB
[Software]
Hostname: vdcache%02d
Network: 192.168.91.0/24
Packages: gcc mpich python3 libfftw3-dev libgsl-dev
"""

Row = dict[str, Any]


def silent(message: str, done: int, total: int) -> None:
    pass


def say(message: str) -> None:
    print(time.strftime("%H:%M:%S"), message, file=sys.stderr, flush=True)


# Sites


def make_site(root: Path, name: str, **settings: Any) -> Site:
    """The site `name`; base images, packages and index are those of the first site made there, as hard links."""
    site, first = Site(root=root / name, cache_every=0, base_renewal=0, **settings), Site(root=root / "first")
    first.make_directories()
    site.make_directories()
    if site.root != first.root:
        for path in first.images.iterdir():
            if path.name.startswith(("base-", "kernel-", "installer-")) or path.suffix == ".status":
                link(path, site.images / path.name)
        for folder in ("packages", "apt"):
            shutil.copytree(first.root / folder, site.root / folder, copy_function=link, dirs_exist_ok=True)
    return site


def link(source: str | Path, target: str | Path) -> None:
    if not os.path.lexists(target):
        os.link(source, target, follow_symlinks=False)


def resolved(site: Site, asked: Request) -> Lock:
    with Session(site) as session:
        result = phase("resolve")(session, Inputs(asked.name, check=True, request=asked))
    return Lock.load(site, result.facts["lock"])


def first_site(root: Path, asked: Request) -> tuple[Lock, Image]:
    """The request's lock and base image, made in the first site with all packages fetched."""
    site = make_site(root, "first")
    base = ensure_base(site, resolved(site, asked), silent).base
    lock = resolved(site, asked)
    say(f"{len(lock.packages)} packages of {lock.installed_bytes / 1e6:.0f} MB beyond the base")
    return lock, base


def plain_cache(site: Site, cache: Image) -> Image:
    """The same cache, not compressed, instead of the compressed one."""
    catalogue = Catalogue(site)
    manifest, (_, parent, *_) = cache.manifest, catalogue.chain(cache)
    with catalogue.building("cache", manifest.key) as work:
        for image in catalogue.chain(cache):  # backing files are named without their folder
            (work / image.path.name).symlink_to(image.path)
        options = ["-O", "qcow2", "-B", parent.path.name, "-F", "qcow2"]
        run(["qemu-img", "convert", *options, cache.path.name, "plain"], cwd=work)
        catalogue.remove(cache)
        return catalogue.add(
            work / "plain",
            kind="cache",
            key=manifest.key,
            suite=manifest.suite,
            architecture=manifest.architecture,
            backing=parent,
            packages=manifest.packages,
            installed_size=manifest.installed_size,
            state=manifest.state,
            virtual_size=manifest.virtual_size,
        )


def drop(site: Site, kinds: Sequence[str]) -> None:
    catalogue = Catalogue(site)
    for image in reversed(catalogue.images()):
        if image.manifest.kind in kinds:
            catalogue.remove(image)


# create

CASES = ("none", "unpacked", "unpacked, plain", "configured")
PHASES = ("request", "resolve", "cache", "place", "image", "create", "install", "ready")


def create(arguments: argparse.Namespace) -> Iterable[Row]:
    path = arguments.root / "vdcache.ini"
    text = arguments.request.read_text() if arguments.request else REQUEST
    path.write_text(text)
    asked = request.read(path)
    lock, _ = first_site(arguments.root, asked)
    sites = {case: make_site(arguments.root, re.sub(r"\W+", "-", case)) for case in arguments.cases}
    for case, site in sites.items():
        (base,) = [image for image in Catalogue(site).images() if image.manifest.kind == "base"]
        kept_as = case.split(",")[0]
        if case != "none" and not Catalogue(site).find("cache", cache_key(lock, base, kept_as)):
            say(f"building the cache: {case}")
            cache = ensure_cache(site, lock, base, kept_as, silent)
            if "plain" in case:
                plain_cache(site, cache)
    for number in range(arguments.rounds):
        for strategy in arguments.strategies:
            path.write_text(f"{text.rstrip()}\nInstall: {strategy}\n")
            for case, site in sites.items():
                if "plain" in case and strategy == "once":
                    continue  # see `compress`
                row = create_once(arguments.root, site, path, asked.name)
                say(f"{number + 1}: {strategy}, {case}: {row['total']:.1f} s")
                assert bool(row["saved"]) == (case != "none"), row
                yield {"strategy": strategy, "case": case, **row}


def create_once(
    root: Path, site: Site, path: Path, name: str, *, drop_kinds: Sequence[str] = ("layer", "bundle")
) -> Row:
    inventory = make_inventory(root, site)
    drop(site, drop_kinds)
    os.sync()
    started = time.monotonic()
    vclust("-i", inventory, "create", path)
    total = time.monotonic() - started
    with Session(site) as session:
        cluster = clusters.get(session.store, name)
        rows = session.store.rows(
            "SELECT phase, end - start AS seconds, facts FROM phases WHERE cluster = ? AND node = ''",
            (cluster.id,),
        )
    vclust("-i", inventory, "destroy", name)
    facts = [json.loads(row["facts"]) for row in rows]
    steps = {step: sum(one.get(step, 0.0) for one in facts) for step in ("unpack", "configure")}
    times = {row["phase"]: row["seconds"] for row in rows}
    return {
        "total": total,
        "phases": times,
        "ansible": total - sum(times.values()),
        **steps,
        "saved": cluster.cache.get("bytes", 0),
    }


def make_inventory(root: Path, site: Site) -> Path:
    folder = root / "inventories" / site.root.name
    if not folder.exists():
        shutil.copytree(PROJECT / "inventories/local", folder)
        variables = folder / "group_vars/site_local.yml"
        settings = f"vclust_site: {json.dumps(site.to_mapping())}"
        text, count = re.subn(r"^vclust_site: .*$", lambda _: settings, variables.read_text(), flags=re.M)
        assert count == 1
        variables.write_text(text)
        with open(folder / "vclust.yml", "a") as plugin:
            plugin.write(f"site: {{root: {site.root}}}\n")
    return folder


def vclust(*words: str | Path) -> None:
    done = subprocess.run([VCLUST, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"vclust {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")


def tell_create(rows: Sequence[Row]) -> None:
    for strategy in ("once", "each"):
        cases = {
            case: [row for row in rows if (row["strategy"], row["case"]) == (strategy, case)]
            for case in CASES
        }
        cases = {case: found for case, found in cases.items() if found}
        if not cases:
            continue
        line(strategy, *cases)
        line(*("---" for _ in range(len(cases) + 1)))
        phases = [
            name for name in PHASES if any(name in row["phases"] for found in cases.values() for row in found)
        ]
        figures: dict[str, Callable[[Row], float]] = {
            name: lambda row, name=name: row["phases"].get(name, 0.0) for name in phases
        }
        figures["Ansible, Python"] = lambda row: row["ansible"]
        figures["**request to ready**"] = lambda row: row["total"]
        figures["unpacking"] = lambda row: row["unpack"]
        figures["configuring"] = lambda row: row["configure"]
        figures["**installing packages**"] = lambda row: row["unpack"] + row["configure"]
        for name, figure in figures.items():
            line(name, *(f"{median(map(figure, found)):.1f}" for found in cases.values()))
        for name in ("**request to ready**", "**installing packages**"):
            plain = median(map(figures[name], cases.get("none", [])))
            others = [median(map(figures[name], found)) for found in cases.values()]
            line(f"ratio, {name.strip('*')}", *(f"{plain / other:.2f}" if other else "" for other in others))
        line("runs", *(len(found) for found in cases.values()))
        print()


# replay


def replay(arguments: argparse.Namespace) -> Iterable[Row]:
    """Its `--rounds` is not looked at: it ends at `--count` requests, or after `--minutes`."""
    deadline = time.monotonic() + 60 * arguments.minutes
    make_site(arguments.root, "first")
    site = make_site(arguments.root, "replay", cache_space=arguments.space * 10**9)
    with gzip.open(arguments.requests, "rt") as file:
        lines = sorted(filter(None, map(dated, file)))[: arguments.count]
    done = [row for row in kept(arguments) if "name" in row]
    for number in range(len(done), len(lines)):
        name = f"replay{number + 1}"
        row = {
            "name": name,
            **replay_one(site, name, lines[number][1], beside=number % arguments.beside == 0),
        }
        yield row
        done.append(row)
        if (number + 1) % arguments.every == 0 and number + 1 < len(lines):
            with Session(site) as session:
                built = rebuild(session, silent)
            say(f"{len(built.built)} caches built of {built.chosen} in {built.seconds:.0f} s")
            yield {
                "requests": number + 1,
                "chosen": built.chosen,
                "built": len(built.built),
                "failed": built.failed,
                "stored_bytes": built.stored_bytes,
                "seconds": built.seconds,
            }
        if time.monotonic() > deadline:
            break
    locks = [Lock.load(site, row["lock"]) for row in done if row["lock"]]
    for cost, stored in (("installed bytes", None), ("1.4 x .deb", lambda one: int(1.4 * one.size))):
        trace = History([lock.packages for lock in locks], stored=stored)
        result = simulate(trace, policy("nested"), site.cache_space, every=arguments.every, warmup=0)
        yield {"simulated": cost, "hits": result.hits, "bytes": result.bytes_saved}


def dated(text: str) -> tuple[str, list[str]] | None:
    line = json.loads(text)
    return (line["date"], line["requested"]) if line["date"] else None


def replay_one(site: Site, name: str, packages: list[str], *, beside: bool) -> Row:
    """Phases request to image of one request; `beside`: its layer is also built from the base."""
    software = {"name": name, "packages": packages, "install": "once"}
    asked = request.from_mapping(
        {"hardware": {"number_of_nodes": 1, "ram": "256MB"}, "software": software}, name
    )
    with Session(site) as session:
        inputs = Inputs(name, request=asked, hosts=(Host("localhost"),))
        phase("request")(session, inputs)
        try:
            inputs = replace(inputs, lock=phase("resolve")(session, inputs).facts["lock"])
        except RequestError as error:
            say(f"{name}: {error}")
            return {"lock": "", "why": str(error)}
        lock = Lock.load(site, inputs.lock)
        fetch(site, lock, silent)  # downloads are no cache's merit
        phase("cache")(session, inputs)
        plan = phase("place")(session, inputs).facts["plan"]
        phase("image")(session, inputs)
        cluster = clusters.get(session.store, name)
        run = timing.past(session.store, "image")[0]
        drop(site, ("layer",))
        row: Row = {
            "lock": lock.digest,
            "of": lock.installed_bytes,
            "bytes": cluster.cache.get("bytes", 0),
            "image": run.seconds,
            "estimate": plan["estimate"]["seconds"].get("image"),
            "estimated_savings": cluster.cache.get("seconds"),
            "unpack": run.facts.get("unpack"),
            "configure": run.facts.get("configure"),
        }
        if beside and cluster.cache:
            base = find_base(site, lock)
            assert base is not None
            started, took = time.monotonic(), Took()
            ensure_layer(site, lock, base.base, (), silent, took=took)
            row |= {"image_without": time.monotonic() - started, "unpack_without": took.unpack}
            drop(site, ("layer",))
        say(f"{name}: {row['bytes'] / 1e6:.0f} of {row['of'] / 1e6:.0f} MB, {row['image']:.1f} s")
        clusters.forget(session.store, cluster)
    return row


def tell_replay(rows: Sequence[Row]) -> None:
    requests = [row for row in rows if row.get("lock")]
    refused = [row for row in rows if row.get("lock") == ""]
    asked, saved = (sum(row[name] for row in requests) for name in ("of", "bytes"))
    hits = [row for row in requests if row["bytes"]]
    print(f"{len(requests)} requests ({len(refused)} more cannot be resolved), {asked / 1e9:.1f} GB")
    print(f"saved: {saved / 1e9:.2f} GB ({100 * saved / asked:.1f}%), {len(hits)} hits")
    for row in [row for row in rows if "simulated" in row][-2:]:
        share = 100 * row["bytes"] / asked
        print(
            f"simulated, a cache takes {row['simulated']}: {row['bytes'] / 1e9:.2f} GB ({share:.1f}%), "
            f"{row['hits']} hits"
        )
    for row in rows:
        if "requests" in row:
            print(
                f"after {row['requests']}: {row['chosen']} caches, {row['built']} built in {row['seconds']:.0f} s, "
                f"{row['stored_bytes'] / 1e9:.2f} GB, {len(row['failed'])} failed"
            )
    beside = [row for row in requests if "image_without" in row]
    estimated = [row for row in beside if row["estimated_savings"] is not None]
    without, taken = (sum(row[name] for row in beside) for name in ("image_without", "image"))
    print(f"{len(beside)} hits built without their cache too: {without:.0f} s without, {taken:.0f} s with")
    savings = [row["image_without"] - row["image"] for row in estimated]
    estimate = sum(row["estimated_savings"] for row in estimated)
    print(f"savings were estimated for {len(estimated)}: {estimate:.0f} s; they were {sum(savings):.0f} s")
    ratios = [row["image"] / row["estimate"] for row in requests if row["estimate"]]
    print(f"phase image, seconds taken / estimate: median {median(ratios):.2f} of {len(ratios)}")


# depth

NAMES = ("python3", "gcc", "libgsl-dev", "libfftw3-dev", "mpich", "gdb", "git", "cmake")
"""Each of the chain's caches holds one more of them, with what it depends on."""
DEPTHS = (1, 2, 4, 8)

READ = """\
cd "$1"
: >disk
mkdir root
qemu-storage-daemon --pidfile daemon.pid \
    --blockdev driver=file,node-name=file,filename="$2",read-only=on \
    --blockdev driver=qcow2,node-name=top,file=file,read-only=on \
    --export type=fuse,id=top,node-name=top,mountpoint=disk &
while [ ! -s daemon.pid ]; do kill -0 $! || exit 1; sleep 0.02; done
# Not in one namespace with the daemon: see build-layer.
unshare --mount sh -euc '
    now() { date +%s.%N; }
    mount -t ext4 -o loop,ro,noload disk root
    a=$(now)
    find root -xdev -type f >all
    b=$(now)
    sort all >sorted
    for name in $(cat names); do cat root/var/lib/dpkg/info/$name.list root/var/lib/dpkg/info/$name:*.list || :; done \
        2>/dev/null | sed "s,^/\\(lib\\|bin\\|sbin\\)/,/usr/\\1/,; s/^/root/" | sort -u >listed
    comm -12 sorted listed >own
    comm -23 sorted listed >rest
    c=$(now)
    xargs -d "\n" cat <own >/dev/null
    d=$(now)
    xargs -d "\n" cat <rest >/dev/null
    echo $a $b $c $d $(now)
    umount root
'
kill $!
wait
"""


def depth(arguments: argparse.Namespace) -> Iterable[Row]:
    text = re.sub("(?<=Packages: ).*", " ".join(NAMES), REQUEST).replace(
        "NumberOfNodes: 2", "NumberOfNodes: 1"
    )
    path = arguments.root / "depth.ini"
    path.write_text(f"{text}Install: once\n")
    asked = request.read(path)
    lock, _ = first_site(arguments.root, asked)
    locks = [prefix(arguments.root, asked, count) for count in range(1, len(NAMES) + 1)]
    assert locks[-1] == lock
    chains = {}
    for plain in (False, True):
        for count in DEPTHS:
            site = make_site(arguments.root, f"depth-{count}{'-plain' * plain}")
            chains[count, plain] = site, make_chain(site, locks, count, plain=plain)
    for _ in range(arguments.rounds):
        for (count, plain), (site, top) in chains.items():
            taken = [image.manifest.bytes for image in Catalogue(site).chain(top)[:-1]]
            row = {"depth": count, "plain": plain, "bytes": sum(taken), **read_all(site, top, lock)}
            if arguments.boot and count in (DEPTHS[0], DEPTHS[-1]) and not plain:
                booted = create_once(arguments.root, site, path, asked.name)
                assert booted["saved"] == lock.installed_bytes
                row |= {"boot": sum(booted["phases"][name] for name in ("create", "install", "ready"))}
            say(json.dumps(row))
            yield row


def prefix(root: Path, asked: Request, count: int) -> Lock:
    site, hardware = make_site(root, "first"), asked.hardware
    return resolve.closure(
        NAMES[:count],
        suite=site.default_suite,
        architecture=hardware.architecture,
        kernel=f"linux-image-cloud-{hardware.architecture}",
        site=site,
        report=silent,
    )


def make_chain(site: Site, locks: Sequence[Lock], count: int, *, plain: bool) -> Image:
    """The last of the locks as a chain of so many configured caches."""
    base = find_base(site, locks[-1])
    assert base is not None
    parent, step = base.base, len(locks) // count
    for lock in locks[step - 1 :: step]:
        assert not missing_from(locks[-1], Catalogue(site), parent) or lock.packages
        found = Catalogue(site).find("cache", cache_key(lock, parent, "configured"))
        if found is None:
            found = ensure_cache(site, lock, parent, "configured", silent)
            if plain:
                found = plain_cache(site, found)
        parent = found
    assert not missing_from(locks[-1], Catalogue(site), parent)
    return parent


def read_all(site: Site, top: Image, lock: Lock) -> Row:
    """Seconds to find all files, to read those of the lock's packages, and all others; nothing of them in memory."""
    for image in Catalogue(site).chain(top):
        with open(image.path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
        Path(folder, "names").write_text(" ".join(package.name for package in lock.packages))
        marks = run(["unshare", "--mount", "sh", "-euc", READ, "sh", folder, top.path]).split()[-5:]
    found, sorting, listed, own, rest = map(float, marks)
    return {"find": sorting - found, "own": own - listed, "rest": rest - own}


def tell_depth(rows: Sequence[Row]) -> None:
    line(
        "caches",
        "compressed",
        "MB",
        "find",
        "read the packages' files",
        "read the base's",
        "boot to ready",
        "runs",
    )
    line(*("---" for _ in range(8)))
    for plain in (False, True):
        for count in DEPTHS:
            found = [row for row in rows if (row["depth"], row["plain"]) == (count, plain)]
            if found:
                times = (median(row[name] for row in found) for name in ("find", "own", "rest"))
                boot = median(row["boot"] for row in found if "boot" in row)
                size = f"{found[-1]['bytes'] / 1e6:.0f}"
                shown = "" if boot != boot else f"{boot:.1f}"
                line(
                    count, "no" if plain else "yes", size, *(f"{one:.2f}" for one in times), shown, len(found)
                )


# record


def record(arguments: argparse.Namespace) -> Iterable[Row]:
    asked = request.from_mapping(
        {"hardware": {"number_of_nodes": 1, "ram": "256MB"}, "software": {"name": "record"}}, "record"
    )
    first_site(arguments.root, asked)
    site = make_site(arguments.root, "record")
    names = {}
    with gzip.open(arguments.packages, "rt") as file:
        for one in map(json.loads, file):
            size = one["installed_size"]
            names[one["id"]] = Package(one["name"], one["version"], one["arch"], installed_size=size)
    with gzip.open(arguments.requests, "rt") as file:
        closures = [json.loads(text)["closure"] for text in file]
    plain = resolved(site, asked)
    locks = [replace(plain, packages=tuple(names[number] for number in closure)) for closure in closures]
    base = find_base(site, plain)
    assert base is not None
    catalogue = Catalogue(site)
    there = sum(image.manifest.kind == "cache" for image in catalogue.images())
    with catalogue.building("cache", "many") as work:
        for number in range(there, arguments.caches):
            packages = locks[number].packages
            (work / "cache").write_text(str(number))
            catalogue.add(
                work / "cache",
                kind="cache",
                key=str(number),
                suite=plain.suite,
                architecture=plain.architecture,
                backing=base.base,
                packages=records(packages),
                installed_size=sum(package.installed_size for package in packages),
                state="unpacked",
            )
    for lock in locks[arguments.caches : arguments.caches + 20 * arguments.rounds]:
        lock.save(site)
        with Session(site) as session:  # for each request, as it is a process of its own
            inputs = Inputs(asked.name, request=asked, lock=lock.digest)
            phase("request")(session, inputs)
            cluster = clusters.get(session.store, asked.name)
            marks = [time.perf_counter()]
            learning.remember(session.store, cluster.id, lock)
            marks.append(time.perf_counter())
            known = matching(session, lock, asked)
            marks.append(time.perf_counter())
            found = lookup.find(closure_of(lock), known)
            marks.append(time.perf_counter())
            phase("cache")(session, replace(inputs, cache=found.digest if found else ""))
            marks.append(time.perf_counter())
            clusters.forget(session.store, cluster)
        steps = ("record", "matching", "lookup", "reserve")
        yield {"caches": len(known)} | {
            step: 1000 * (end - start) for step, (start, end) in zip(steps, pairwise(marks), strict=True)
        }


def tell_record(rows: Sequence[Row]) -> None:
    line(f"among {rows[-1]['caches']} caches, ms", "median", "most")
    line("---", "---", "---")
    for step, text in (
        ("record", "record the request in the history"),
        ("matching", "read which caches there are"),
        ("lookup", "look up the largest that fits"),
        ("reserve", "phase `cache`: look whether it is there still, and write down that it is reserved"),
    ):
        line(text, f"{median(row[step] for row in rows):.2f}", f"{max(row[step] for row in rows):.2f}")


# compress


def compress(arguments: argparse.Namespace) -> Iterable[Row]:
    path = arguments.root / "compress.ini"
    path.write_text(arguments.request.read_text() if arguments.request else REQUEST)
    asked = request.read(path)
    lock, _ = first_site(arguments.root, asked)
    bundles = metapackages.expand(asked, Site())
    site = make_site(arguments.root, "compress")
    base = find_base(site, lock)
    assert base is not None
    for _ in range(arguments.rounds):
        for kept_as in ("unpacked", "configured"):
            marks: list[float] = []

            def mark(message: str, done: int, total: int, marks: list[float] = marks) -> None:
                if message == "compressing":
                    marks.append(time.monotonic())

            started = time.monotonic()
            cache = ensure_cache(site, lock, base.base, kept_as, mark)
            ended = time.monotonic()
            row: Row = {
                "state": kept_as,
                "build": marks[0] - started,
                "compressing": ended - marks[0],
                "bytes": cache.manifest.bytes,
            }
            for over in ("compressed", "plain", "none"):
                if over == "plain":
                    cache = plain_cache(site, cache)
                    row["plain_bytes"] = cache.manifest.bytes
                start, took = None if over == "none" else cache, Took()
                drop_memory(site)
                begun = time.monotonic()
                ensure_layer(site, lock, base.base, bundles, silent, cache=start, took=took)
                row |= {over: time.monotonic() - begun, f"{over}_configure": took.configure}
                drop(site, ("layer",))
            drop(site, ("cache",))
            say(json.dumps(row))
            yield row


def drop_memory(site: Site) -> None:
    """The site's images are not in the page cache any more."""
    os.sync()
    for image in Catalogue(site).images():
        with open(image.path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def tell_compress(rows: Sequence[Row]) -> None:
    states = ("unpacked", "configured")
    line("", *states)
    line("---", *("---" for _ in states))
    for text, name, unit, digits in (
        ("building the cache without compressing it, s", "build", 1, 1),
        ("compressing it and taking it in, s", "compressing", 1, 1),
        ("MB, compressed", "bytes", 1e6, 0),
        ("MB, not compressed", "plain_bytes", 1e6, 0),
        ("request layer over the compressed one, s", "compressed", 1, 1),
        ("request layer over the other, s", "plain", 1, 1),
        ("request layer without cache, s", "none", 1, 1),
    ):
        figures = (median(row[name] for row in rows if row["state"] == one) for one in states)
        line(text, *(f"{figure / unit:.{digits}f}" for figure in figures))


# Printing


def median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else float("nan")


def line(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |")


COMMANDS: Mapping[
    str, tuple[Callable[[argparse.Namespace], Iterable[Row]], Callable[[Sequence[Row]], None]]
] = {
    "create": (create, tell_create),
    "replay": (replay, tell_replay),
    "depth": (depth, tell_depth),
    "record": (record, tell_record),
    "compress": (compress, tell_compress),
}


def results(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.root / f"{arguments.command}.jsonl"
    return path


def kept(arguments: argparse.Namespace) -> list[Row]:
    """The measurements of all runs."""
    path = results(arguments)
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        one = commands.add_parser(name)
        one.add_argument("--root", type=Path, required=True, help="folder for the sites")
        one.add_argument("--json", action="store_true", help="print the measurements")
        one.add_argument("--rounds", type=int, default=1)
        if name == "create":
            one.add_argument("--request", type=Path)
            one.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
            one.add_argument("--strategies", nargs="+", default=("once", "each"), choices=("once", "each"))
        if name == "compress":
            one.add_argument("--request", type=Path)
        if name in ("replay", "record"):
            one.add_argument("--requests", type=Path, required=True, help="a trace's requests")
        if name == "replay":
            one.add_argument("--count", type=int, default=60, help="requests with a date, oldest first")
            one.add_argument("--every", type=int, default=20, help="requests from choice to choice")
            one.add_argument("--space", type=int, default=5, help="GB for caches")
            one.add_argument(
                "--beside", type=int, default=3, help="every so many are also built without cache"
            )
            one.add_argument("--minutes", type=float, default=9)
        if name == "record":
            one.add_argument("--packages", type=Path, required=True, help="that trace's packages")
            one.add_argument("--caches", type=int, default=1000)
        if name == "depth":
            one.add_argument(
                "--boot", action="store_true", help="also boot a node from the shortest and longest"
            )
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    arguments.root.chmod(0o711)  # hypervisor processes walk through it as a user of their own
    measure, tell = COMMANDS[arguments.command]
    if arguments.rounds:
        for row in measure(arguments):
            with open(results(arguments), "a") as file:
                file.write(json.dumps(row) + "\n")
    rows = kept(arguments)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}\n"
    )
    tell(rows)


if __name__ == "__main__":
    main()
