"""What goes wrong on the way, tried for real through the command: one clear error, nothing left, and `create` goes on.

Verified by other ways than the command's own: virsh, ip, losetup, processes, files, sqlite3.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from checker import check
from machine import left_since, local_inventory, output, snapshot

from vclust_py.image import Catalogue
from vclust_py.site import Site

pytestmark = pytest.mark.system

VCLUST = Path(sys.executable).parent / "vclust"
KILLING = Path(__file__).parent / "killing"
PIDS = Path("/run/vclust")
WITHOUT_SYSTEMD = pytest.mark.skipif(
    Path("/run/systemd/system").is_dir(), reason="systemd looks after libvirtd here"
)
ALL_ENDED = 300
"""Seconds that what was interrupted may take to end: on a busy machine, many times what it takes on a quiet one."""


class Done:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"

    @property
    def errors(self) -> list[str]:
        """What is neither progress nor the advice after a failed create."""
        return [line for line in self.err.splitlines() if not re.match(r"\[ *\d+\.\d s\]", line)]

    def told(self, code: int, *patterns: str) -> None:
        """It ended with `code` and one error, in words for people, that match `patterns`."""
        assert self.code == code, self
        assert sum(line.startswith("vclust: ") for line in self.errors) == 1, self
        for noise in ("Traceback", '"msg"', "MODULE", "Errno", 'File "'):
            assert noise not in "\n".join(self.errors), self
        for pattern in patterns:
            assert re.search(pattern, "\n".join(self.errors)), (pattern, self)


class Running:
    """A command under way; what it says goes to files, so that it never waits for a reader."""

    def __init__(self, argv: list[str | Path], folder: Path, env: Mapping[str, str]) -> None:
        self.out, self.err = (Path(tempfile.mkstemp(dir=folder)[1]) for _ in range(2))
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)

    def wait(self, timeout: float = 300) -> Done:
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"not ended after {timeout} s: {self.err.read_text()}")
        return Done(code, self.out.read_text(), self.err.read_text())


class Vclust:
    """The command, as a user types it, on a site of its own."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.root = folder, Path(str(settings["root"]))
        self.inventory = Path(tempfile.mkdtemp(dir=folder)) / "inventory"
        local_inventory(self.inventory, **settings)

    def start(self, *words: str | Path, prefix: tuple[str, ...] = (), **env: str) -> Running:
        argv: list[str | Path] = [
            "env",
            "--default-signal=INT",
            *prefix,
            VCLUST,
            "-i",
            self.inventory,
            *words,
        ]
        return Running(argv, self.folder, {**os.environ, **env})

    def __call__(self, *words: str | Path, code: int = 0, prefix: tuple[str, ...] = ()) -> Done:
        done = self.start(*words, prefix=prefix).wait()
        assert done.code == code, done
        return done

    def request(
        self,
        name: str,
        nodes: int = 2,
        network: str = "192.168.78.0/24",
        software: str = "Packages: hello\nInstall: once",
        **hardware: object,
    ) -> Path:
        lines = ["[Hardware]", f"NumberOfNodes: {nodes}", "RAM: 512MB"]
        lines = [line for line in lines if line.partition(":")[0] not in hardware]
        lines += [f"{key}: {value}" for key, value in hardware.items()]
        key = f"{name.removeprefix('unhappy-')}%02d"
        lines += ["[Software]", "User: alice:*", f"Hostname: {key}", f"Network: {network}", software]
        path = self.folder / f"{name}.ini"
        path.write_text("\n".join(lines) + "\n")
        return path

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """From the site's state, past the library; nothing while that is not there."""
        if not (self.root / "state.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.root / "state.db", timeout=10)) as connection:
            there = connection.execute("PRAGMA user_version").fetchone()[0]
            return list(connection.execute(query, values)) if there else []

    def reaches(self, running: Running, name: str, phase: str) -> None:
        """Wait until the phase is under way."""
        deadline = time.monotonic() + 240
        while not self.rows(
            "SELECT 1 FROM phases JOIN clusters ON clusters.id = cluster WHERE name = ? AND destroyed IS NULL"
            " AND phase = ? AND node = '' AND end IS NULL",
            name,
            phase,
        ):
            if running.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{name} did not come to {phase}: {running.wait()}")
            time.sleep(0.02)

    def live(self) -> set[object]:
        return {row[0] for row in self.rows("SELECT name FROM clusters WHERE destroyed IS NULL")}

    def kept(self) -> list[str]:
        """What the site keeps of clusters: folders with disks and keys, locks, unfinished images."""
        return [
            str(path.relative_to(self.root))
            for pattern in ("clusters/*", "held/cluster-*", "images/*.tmp", "packages/*.tmp", "locks/*.tmp")
            for path in self.root.glob(pattern)
        ]


def domains(name: str) -> dict[str, str]:
    """The running domains of a cluster and their numbers, which change with every start."""
    # Where libvirtd does not run there are none of ours: it stays as long as a domain does.
    listed = subprocess.run(["virsh", "-q", "list", "--name", "--id"], capture_output=True, text=True)
    found = dict(line.split() for line in listed.stdout.splitlines() if line)
    return {domain: number for number, domain in found.items() if domain.endswith(f".{name}")}


def defined(name: str) -> list[str]:
    """All domains of a cluster, as libvirt keeps them and as they run, whether libvirtd is there or not."""
    kept = [path.stem for path in Path("/etc/libvirt/qemu").glob(f"*.{name}.xml")]
    return kept + emulators(name)


def emulators(name: str) -> list[str]:
    return [
        line for line in command_lines().values() if re.search(rf"qemu-system.*guest=[^.,]*\.{name},", line)
    ]


def command_lines() -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def modules(vclust: Vclust) -> set[int]:
    """Ansible and its modules at work for this site, and what builds its images."""
    marks = (str(vclust.inventory), f"{vclust.root}/images/image-")
    return {pid for pid, line in command_lines().items() if any(mark in line for mark in marks)}


def playbook(running: Running) -> int:
    """The process of ansible-playbook that a command has started."""
    children = output("ps", "-o", "pid=", "--ppid", str(running.process.pid)).split()
    return next(int(pid) for pid in children if "ansible-playbook" in command_lines()[int(pid)])


def all_ended(vclust: Vclust) -> None:
    deadline = time.monotonic() + ALL_ENDED
    while left := modules(vclust):
        assert time.monotonic() < deadline, [command_lines().get(pid) for pid in left]
        time.sleep(0.1)


def forget_layers(site: Site, package: str) -> None:
    """Take the layers with this package away, so that they are built again."""
    for image in Catalogue(site).images():
        if image.manifest.kind == "layer" and any(held.name == package for held in image.manifest.packages):
            Catalogue(site).remove(image)


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Vclust:
    return Vclust(tmp_path_factory.mktemp("unhappy"), root=site.root)


@pytest.fixture(autouse=True)
def cleared(vclust: Vclust) -> Iterator[None]:
    """Each test begins and ends without clusters of these tests, even when one fails."""
    for again in (True, False):
        for name in vclust.live():
            if str(name).startswith("unhappy-"):
                vclust("destroy", str(name))
        if again:
            yield
    assert check(vclust.root) == []


@pytest.fixture
def before(cleared: None) -> dict[str, set[str]]:
    return snapshot()


def test_interrupted_and_killed_in_phase_after_phase(
    site: Site, vclust: Vclust, before: dict[str, set[str]]
) -> None:
    """One cluster: each phase is interrupted by Ctrl-C, then its controller is killed, and `create` goes on."""
    forget_layers(site, "hello")
    name, request = "unhappy-phases", vclust.request("unhappy-phases")
    started: dict[str, str] = {}
    # Fetching the package index takes long enough to be seen, resolving a request again does not.
    fetching = Vclust(vclust.folder, root=site.root, index_max_age=0)
    for phase in ("resolve", "image", "create", "install", "ready"):
        command = fetching if phase == "resolve" else vclust
        running = command.start("create", request)
        vclust.reaches(running, name, phase)
        running.process.send_signal(signal.SIGINT)
        done = running.wait(ALL_ENDED)
        assert done.code == 130, done
        assert f"vclust: interrupted in phase {phase}" in done.err
        assert f" destroy {name}` clears it" in done.err
        assert not modules(command)  # it waits for the clean-up
        detail = vclust.rows("SELECT detail FROM clusters WHERE destroyed IS NULL")
        assert detail in ([(f"{phase} interrupted",)], [("",)])
        if detail == [("",)]:  # its work had just been done, so the next run is through it at once
            started = domains(name)
            continue

        running = command.start("create", request)
        vclust.reaches(running, name, phase)
        if phase == "install":
            os.kill(playbook(running), signal.SIGKILL)
            running.wait(ALL_ENDED).told(4, "install: ansible-playbook ended in the middle of its work")
        else:
            running.process.kill()
            running.wait()
        all_ended(command)
        # What ran before runs on.
        assert started.items() <= domains(name).items()
        started = domains(name)
    done = vclust("create", request)
    assert f"{name} is ready" in done.out
    assert domains(name) == started
    assert len(started) == 2
    assert vclust("ssh", name, "--", "ssh phases02 hostname").out.strip() == "phases02"
    assert check(site.root) == []
    assert not Catalogue(site).clean()
    vclust("destroy", name)
    assert not defined(name)
    assert not vclust.kept()
    assert left_since(before) == {}


def test_killed_within_phases_that_are_over_at_once(site: Site, vclust: Vclust) -> None:
    """By SIGKILL from within, at one statement to the store after the other; what comes next takes it up."""
    name, request = "unhappy-within", vclust.request("unhappy-within", nodes=1)

    def killed(phase: str, number: int, *words: str | Path) -> Done:
        environment = {"PYTHONPATH": str(KILLING), "VCLUST_TEST_KILL": f"{phase}:{number}"}
        done = vclust.start(*words, **environment).wait(ALL_ENDED)
        all_ended(vclust)
        return done

    for phase, numbers in (("request", (1, 2)), ("cache", (1,)), ("place", (2, 6))):
        for number in numbers:
            done = killed(phase, number, "create", request)
            assert done.code == 4, (phase, number, done)
            assert "Traceback" not in done.err
    vclust("create", request)
    assert check(site.root) == []
    running = domains(name)
    assert len(running) == 1
    for number in (1, 3, 6):
        assert killed("destroy", number, "destroy", name).code == 4, number
        assert name in vclust.live()
    vclust("destroy", name)
    assert not defined(name)
    assert not vclust.kept()


@pytest.mark.parametrize("phase", ["image", "ready"])
def test_destroy_after_the_controller_was_killed(
    site: Site, vclust: Vclust, before: dict[str, set[str]], phase: str
) -> None:
    forget_layers(site, "hello")
    name = "unhappy-killed"
    running = vclust.start("create", vclust.request(name, nodes=1))
    vclust.reaches(running, name, phase)
    running.process.kill()
    running.wait()
    vclust("destroy", name)  # at once
    assert not defined(name)
    assert not vclust.kept()
    assert left_since(before) == {}


@WITHOUT_SYSTEMD
@pytest.mark.parametrize("phase", ["create", "install"])
def test_libvirtd_killed_on_the_way(vclust: Vclust, before: dict[str, set[str]], phase: str) -> None:
    """The nodes do not need it to go on; whoever needs it next starts it again."""
    name = "unhappy-libvirtd"
    running = vclust.start("create", vclust.request(name, nodes=1))
    vclust.reaches(running, name, phase)
    os.kill(int((PIDS / "libvirtd.pid").read_text()), signal.SIGKILL)
    done = running.wait()
    assert done.code == 0, done
    number = domains(name)
    os.kill(int((PIDS / "libvirtd.pid").read_text()), signal.SIGKILL)
    assert len(emulators(name)) == len(number) == 1
    vclust("destroy", name)
    assert not emulators(name)
    assert not defined(name)
    assert left_since(before) == {}


@WITHOUT_SYSTEMD
def test_no_libvirtd(vclust: Vclust, before: dict[str, set[str]]) -> None:
    Path("/run/libvirt").mkdir(exist_ok=True)
    PIDS.mkdir(exist_ok=True)
    hide = f"mount -t tmpfs tmpfs /run/libvirt && mount -t tmpfs tmpfs {PIDS}"
    hide += f' && mount --bind /dev/null {shutil.which("libvirtd")} && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", hide, "sh")
    request = vclust.request("unhappy-none")
    done = vclust.start("create", request, prefix=prefix).wait()
    done.told(4, "libvirtd: not found", "hint: .*apt-get install .*libvirt-daemon-system")
    assert "destroy unhappy-none" in done.err
    vclust("destroy", "unhappy-none")
    assert not vclust.kept()
    assert left_since(before) == {}


def test_a_node_that_never_comes_up(site: Site, vclust: Vclust, before: dict[str, set[str]]) -> None:
    name, request = "unhappy-never", vclust.request("unhappy-never", nodes=1)
    # Longer until the installer runs, which it does in less than half the time that a node takes to be ready.
    for seconds in (2, 4, 8, 16, 32, 64):
        hasty = Vclust(vclust.folder, root=site.root, ready_timeout=seconds)
        done = hasty("create", request, code=4)
        folder = next(site.clusters.glob(f"{name}.*"))
        if b"vclust: installer" in (folder / f"never01.{name}.console").read_bytes():
            break
    done.told(4, rf"{name}: never01: no report after {seconds} s; its console ended with:\n    \S")
    # It is of no use any more, and stops; the disk and the console stay, to be looked at.
    assert not defined(name)
    assert b"vclust: installer" in (folder / f"never01.{name}.console").read_bytes()

    seed = folder / "never01.img"
    kept = seed.read_bytes()
    seed.write_bytes(b"rubbish" * 5000)
    # So that the installer looks for it for ten seconds only.
    hasty = Vclust(vclust.folder, root=site.root, ready_timeout=150)
    hasty("create", request, code=4).told(4, rf"{name}: never01: .*seed")
    seed.write_bytes(kept)
    vclust("create", request)
    assert domains(name)
    vclust("destroy", name)
    assert left_since(before) == {}


def test_a_node_that_fails(vclust: Vclust, before: dict[str, set[str]]) -> None:
    """Too few nodes for MinNodes is a failure; `create` again starts that node only, the others run on."""
    name, request = "unhappy-fails", vclust.request("unhappy-fails")
    running = vclust.start("create", request)
    vclust.reaches(running, name, "install")
    output("virsh", "destroy", f"fails02.{name}")
    running.wait().told(
        4, rf"{name}: fails02: its domain stopped; its console", "create again starts the failed"
    )
    (left, number), *more = domains(name).items()
    assert left == f"fails01.{name}"
    assert not more
    vclust("create", request)
    assert domains(name)[left] == number
    assert len(domains(name)) == 2
    vclust("destroy", name)
    assert left_since(before) == {}


def test_a_node_that_may_fail(vclust: Vclust, before: dict[str, set[str]]) -> None:
    name = "unhappy-may"
    running = vclust.start("create", vclust.request(name, MinNodes=1))
    vclust.reaches(running, name, "install")
    output("virsh", "destroy", f"may01.{name}")
    done = running.wait()
    assert done.code == 0, done
    assert "may01" in done.out
    said = vclust("show", name).out
    assert f"{name}: degraded (1 of 2 nodes) (without may01, which failed" in said
    assert re.search(r"may01 .* failed\b", said)
    # The first that works is the one to log in to.
    assert vclust("ssh", name, "--", "hostname").out.strip() == "may02"
    vclust("destroy", name)
    assert left_since(before) == {}


@pytest.fixture
def disk(disk_path: Path) -> Iterator[Path]:
    """A file system of 16 GB, of which the file behind it takes only what is written."""
    image, place = disk_path / "image", disk_path / "disk"
    with open(image, "wb") as file:
        file.truncate(16 << 30)
    place.mkdir()
    output("mke2fs", "-q", "-t", "ext4", str(image))
    output("mount", "-o", "loop", str(image), str(place))
    yield place
    output("umount", str(place))


def fill(disk: Path) -> Path:
    """Take all of a file system's space, or what has come free since."""
    filler = disk / "filler"
    with open(filler, "ab") as file:
        for size in (1 << 26, 1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
    return filler


def test_disk_full_while_building(site: Site, vclust: Vclust, disk: Path) -> None:
    before = snapshot()
    full = Vclust(vclust.folder, root=disk / "site")
    name, request = "unhappy-full", vclust.request("unhappy-full", nodes=1, Disk="3GB")
    shutil.copytree(site.apt, full.root / "apt", symlinks=True)
    (full.root / "images").mkdir()
    for path in site.images.iterdir():
        if path.name.startswith(("base-", "kernel-", "installer-")) or path.suffix == ".status":
            shutil.copy2(path, full.root / "images")
    running = full.start("create", request)
    full.reaches(running, name, "image")
    filler = fill(disk)
    done = running.wait()
    done.told(4, f"not enough space on the file system {disk}: ")
    assert f" destroy {name}` clears it" in done.err
    assert not [path for path in full.kept() if path.startswith(("images", "packages"))]
    # Some space, too little for the layer.
    os.truncate(filler, filler.stat().st_size - (64 << 20))
    full("create", request, code=4).told(
        4, rf"not enough space on the file system {disk}: \d+ MB free, \d+ MB needed"
    )
    # What the build had written was let go: now nothing at all can be written.
    fill(disk)
    full("create", request, code=4).told(4, f"not enough space on the file system {disk}: ")
    fill(disk)
    other = Vclust(vclust.folder, root=disk / "other")
    other("create", request, code=4).told(4, re.escape(str(disk / "other")), "No space left on device")
    filler.unlink()
    full("destroy", name)
    assert not full.kept()
    assert left_since(before) == {}


def test_unfit_requests_leave_nothing(vclust: Vclust) -> None:
    name = "unhappy-unfit"
    route = json.loads(output("ip", "-json", "-4", "route", "show", "scope", "link"))[0]["dst"]
    unfit: tuple[tuple[int, dict[str, object], str], ...] = (
        (3, {"RAM": "2TB"}, r"has \d+ MB of memory left, a node takes 2000\d+"),
        (3, {"Disk": "60TB"}, r"has \d+ MB of disk left, a node takes 60000000"),
        (3, {"CPUs": 100}, r"\d+ CPUs, asked for 100 in one node"),
        (2, {"software": "Packages: helo"}, r"'helo': not in .* did you mean hello\b"),
        (2, {"software": "MetaPackages: mpii"}, r"mpii.*mpi\b"),
        (2, {"network": route}, f"Network: got '{route}', expected a range apart from {route}"),
    )
    for code, wrong, said in unfit:
        request = vclust.request(name, **wrong)  # type: ignore[arg-type]
        vclust("create", request, code=code).told(code, said)
        assert name not in vclust.live()
        assert not vclust.kept()
    vclust("plan", vclust.request(name))


def test_names_that_are_not_there(vclust: Vclust) -> None:
    for words in (("show", "unhappy-nobody"), ("ssh", "unhappy-nobody"), ("destroy", "unhappy-nobody")):
        vclust(*words, code=2).told(2, "unhappy-nobody: no such cluster")
    assert not vclust.kept()


def test_two_creates_of_one_name(vclust: Vclust, before: dict[str, set[str]]) -> None:
    """Both end well and there is one cluster; another request does not touch it; `destroy` meanwhile is in order."""
    name, request = "unhappy-twice", vclust.request("unhappy-twice", nodes=1)
    both = [vclust.start("create", request) for _ in range(2)]
    assert [running.wait().code for running in both] == [0, 0]
    assert len(domains(name)) == len(emulators(name)) == 1
    number = domains(name)

    vclust.request(name, nodes=2)
    vclust("create", request, code=2).told(
        2, f"{name}: a cluster of that name exists with a different request", f" destroy {name}"
    )
    vclust.request(name, nodes=1)
    assert "no such node of" in vclust("ssh", name, "nobody", code=2).err
    assert vclust.start("ssh", name, "--", "exit 7").wait().code == 7
    vclust("create", request)
    assert domains(name) == number

    destroying = [vclust.start("destroy", name) for _ in range(2)]
    codes = sorted(running.wait().code for running in destroying)
    assert codes in ([0, 0], [0, 2])
    assert not defined(name)
    assert not vclust.kept()
    assert left_since(before) == {}


def test_create_and_destroy_at_once(site: Site, vclust: Vclust, before: dict[str, set[str]]) -> None:
    """Whoever is first, nothing half-made stays."""
    name, request = "unhappy-both", vclust.request("unhappy-both", nodes=1)
    # Fetching the package index takes long enough to be seen, resolving a request again does not.
    fetching = Vclust(vclust.folder, root=site.root, index_max_age=0)
    for phase, command in (("resolve", fetching), ("create", vclust)):
        creating = command.start("create", request)
        vclust.reaches(creating, name, phase)
        destroyed, created = vclust("destroy", name), creating.wait()
        if created.code:
            created.told(2, f"{name}: no such cluster")
        assert f"{name} is destroyed" in destroyed.out
        assert not defined(name)
        assert not vclust.kept()
    assert left_since(before) == {}


def test_two_clusters_share_a_build(site: Site, vclust: Vclust, before: dict[str, set[str]]) -> None:
    forget_layers(site, "hello")
    layers = len(list(site.images.glob("layer-*.json")))
    names = ("unhappy-one", "unhappy-two")
    both = [vclust.start("create", vclust.request(name, nodes=1)) for name in names]
    assert [running.wait().code for running in both] == [0, 0]
    assert len(list(site.images.glob("layer-*.json"))) == layers + 1
    assert [len(domains(name)) for name in names] == [1, 1]
    both = [vclust.start("destroy", name) for name in names]
    assert [running.wait().code for running in both] == [0, 0]
    assert not vclust.kept()
    assert left_since(before) == {}


def test_requests_that_are_no_requests(vclust: Vclust) -> None:
    folder = vclust.folder
    (folder / "binary.ini").write_bytes(os.urandom(1 << 20))
    (folder / "large.ini").write_text("[Software]\n" + "Packages: gcc\n" * 750_000)
    (folder / "empty.ini").touch()
    for path, said in (
        (folder, r": got Is a directory"),
        (folder / "nowhere.ini", r": got No such file or directory"),
        (folder / "binary.ini", r"binary\.ini:\d+: "),
        (folder / "large.ini", r"large\.ini:1: .*at most"),
        (folder / "empty.ini", r"NumberOfNodes"),
        (Path("/dev/zero"), r"/dev/zero:1: "),
        (Path("/proc/self/mem"), r"/proc/self/mem: got "),
    ):
        vclust("create", path, code=2).told(2, said)


def test_inventories_that_are_none(vclust: Vclust) -> None:
    folder = vclust.folder
    request = vclust.request("unhappy-inventory")
    (folder / "broken.yml").write_text("all: [unclosed\n")
    (folder / "empty.yml").write_text("all:\n  hosts: {}\n")
    other = Vclust(folder, root="relative/place")
    strange = Vclust(folder, root=vclust.root, rooot="/x")
    no_libvirt = Vclust(folder, root=vclust.root)
    variables = no_libvirt.inventory / "group_vars/site_local.yml"
    variables.write_text(
        re.sub(r"vclust_libvirt_uri: .*", "vclust_libvirt_uri: vbox:///x", variables.read_text())
    )
    for inventory, said in (
        (folder / "nowhere", "nowhere: got no such file or folder, expected an inventory"),
        (folder / "broken.yml", r"No inventory was parsed.*\n.*broken\.yml"),
        (folder / "empty.yml", r"site"),
        (other.inventory, "vclust_site: root: got 'relative/place', expected an absolute path"),
        (strange.inventory, "vclust_site: rooot: unknown setting, expected one of"),
        (no_libvirt.inventory, "vclust_libvirt_uri: got 'vbox:///x', expected"),
    ):
        vclust.inventory, kept = inventory, vclust.inventory
        try:
            done = vclust.start("create", request).wait()
        finally:
            vclust.inventory = kept
        done.told(done.code, said)
        assert done.code in (2, 4)
    vclust("destroy", "unhappy-inventory")


def test_roots_that_cannot_be_used(vclust: Vclust, tmp_path: Path) -> None:
    request = vclust.request("unhappy-root")
    (tmp_path / "file").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/state.db").write_bytes(os.urandom(1 << 16))
    for root, said in (
        (tmp_path / "file/site", r"file/site: got Not a directory"),
        (Path("/proc/vclust"), r"/proc/vclust: got No such file or directory"),
        (tmp_path / "damaged", r"damaged/state\.db: file is not a database\n.*the site's state is damaged"),
    ):
        other = Vclust(vclust.folder, root=root)
        for words in (("create", request), ("list",), ("destroy", "unhappy-root")):
            if root.exists() or words[0] == "create":
                done = other(*words, code=4)
                done.told(4, said)
                assert "left unfinished" not in done.err
