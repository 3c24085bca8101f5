"""What recurs on a site manager, within what its units leave it of root's rights: real caches are built and stored.

On this machine in a sandbox like that of the unit, and with `--kvm` on one with systemd.
"""

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cache.cachesite import caches, remember, status
from emulated.host import Host
from emulated.places import SELF
from emulatedhost import PATIENCE
from jinja2 import Template
from keeperunit import keeper_unit
from layers import KERNEL, make_site
from layers import minimal as minimal
from machine import BIN, output
from repository import Repository
from shared import inventory
from test_life import wait_for

from vclust_py import network
from vclust_py import request as requests
from vclust_py.access import ACCOUNT
from vclust_py.apt import sources
from vclust_py.cache import upkeep
from vclust_py.guest import trust
from vclust_py.image import Catalogue
from vclust_py.image.base import ensure_base, find_base
from vclust_py.resolve import closure
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.session import Session

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

UNITS = PROJECT / "roles/site_manager/templates"


def quiet(message: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def own(site: Site) -> Iterator[Site]:
    """A site with the others' base image, and five requests for the same."""
    made = Site(root=site.root / "upkeep", cache_every=5)
    shutil.rmtree(made.root, ignore_errors=True)
    made.make_directories()

    def lock(there: Site, *names: str) -> object:
        return closure(
            names,
            suite=site.default_suite,
            architecture="amd64",
            kernel=KERNEL,
            site=there,
            report=quiet,
        )

    ensure_base(site, lock(site), quiet)
    for path in site.images.iterdir():
        if path.name.startswith(("base-", "kernel-", "installer-")) or path.suffix == ".status":
            os.link(path, made.images / path.name)
    shutil.copytree(site.apt, made.apt, symlinks=True, dirs_exist_ok=True)
    remember(made, *[lock(made, "hello")] * 5)
    yield made
    shutil.rmtree(made.root)


def run_unit(name: str, site: Site, folder: Path, *namespaces: str) -> str:
    """What the unit prints, run by what it leaves of root's rights."""
    unit = folder / name
    variables = {
        "site_manager_name": "t",
        "site_manager_python": sys.executable,
        "_site_manager_root": site.root,
        "_site_manager_unit": "vclust-upkeep-t",
        "_site_manager_bases_unit": "vclust-bases-t",
        "_site_manager_packages_unit": "vclust-packages-t",
        "_site_manager_word": "",
    }
    unit.write_text(Template((UNITS / f"{name}.j2").read_text()).render(variables))
    start = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    sandbox = Path(__file__).with_name("sandboxed.py")
    done = subprocess.run(
        [
            *("unshare", "--mount", *namespaces, sys.executable, sandbox, unit),
            *start.removeprefix("ExecStart=").split(),
        ],
        cwd="/",
        input=json.dumps(site.to_mapping()),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mounts(site: Site) -> list[str]:
    """Those of the site: the machine has others' too."""
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(site.root) in line]


def outdated(own: Site, toys: Repository) -> Site:
    """The site, with a base image old enough to be renewed, for a package of Debian's that a toy archive for security
    updates has in a later version, in the site's folder.
    """
    toy = Repository(own.root / "toy", toys.keys)
    shutil.copytree(toys.path, toy.path)
    suite = own.default_suite
    toy.add("netbase", "99", pool="pool-security")
    toy.publish(f"{suite}-security", "pool-security")
    listed = (
        f"{sources(own, suite)}\nTypes: deb\nURIs: copy:{toy.path}\nSuites: {suite}-security\n"
        f"Components: main\nSigned-By: {toy.path}/toy.gpg\n"
    )
    toy.sources.write_text(listed)
    newest = max(path.stat().st_mtime for path in own.images.glob("base-*.qcow2"))
    time.sleep(max(newest + 61 - time.time(), 0))
    return replace(own, sources=str(toy.sources), base_renewal=60)


@pytest.mark.long
def test_a_base_image_is_renewed_within_what_the_unit_leaves(
    own: Site, toys: Repository, tmp_path: Path
) -> None:
    suite, with_toy = own.default_suite, outdated(own, toys)
    old = {image.manifest.digest for image in Catalogue(own).images()}
    before = mounts(own)
    assert run_unit("vclust-upkeep.service", with_toy, tmp_path) == ""  # packages are fetched
    said = run_unit("vclust-bases.service", with_toy, tmp_path, "--net")
    assert said.startswith(f"renewed the base image of {suite} for amd64, for netbase"), said
    assert mounts(own) == before
    (new,) = [
        image
        for image in Catalogue(own).images()
        if image.manifest.kind == "base" and image.manifest.digest not in old
    ]
    assert "netbase=99" in new.manifest.pinned
    # The next request starts from it; its file system is whole.
    lock = closure(["hello"], suite=suite, architecture="amd64", kernel=KERNEL, site=with_toy, report=quiet)
    found = find_base(with_toy, lock)
    assert found is not None
    assert found.base == new
    raw = own.root / "base.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", new.path, raw], check=True)
    subprocess.run(["e2fsck", "-f", "-n", raw], check=True, capture_output=True)
    listing = subprocess.run(
        ["debugfs", "-R", "stat /usr/bin/sudo", raw], capture_output=True, text=True, check=True
    ).stdout
    assert "Mode:  04755" in listing
    assert run_unit("vclust-bases.service", with_toy, tmp_path, "--net") == ""


def test_a_cache_is_built_within_what_the_unit_leaves(own: Site, tmp_path: Path) -> None:
    with Session(own) as session:
        assert upkeep.upkeep(session, quiet) == []  # packages are fetched
    said = run_unit("vclust-caches.service", own, tmp_path, "--net")
    assert said.startswith("built "), said
    assert status(own)["state"] == "done"
    (cache,) = caches(own)
    assert {package.partition("=")[0] for package in cache.packages} == {"hello"}


PLAYBOOK = """\
---
- name: The part of the role that is for systemd
  hosts: vm_hosts
  gather_facts: false
  tasks:
    - name: Make the timer
      ansible.builtin.include_role:
        name: site_manager
        tasks_from: upkeep
      vars:
        site_manager_site: {settings}
        site_manager_name: toy
        site_manager_python: {python}
"""
INSTALLED = ("numpy", "numpy.libs", "cryptography", "*cffi*", "yaml", "*vclust*")
"""Of this project's Python, what upkeep imports."""
POSTINST = """\
#!/bin/sh
# What packages do: files of others', with rights; a socket.
set -e
touch /usr/bin/toy
chown daemon:games /usr/bin/toy
chmod 6755 /usr/bin/toy
perl -MIO::Socket::INET -e 'IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or die "$@\\n"'
"""


def a_program(folder: Path) -> None:
    (folder / "DEBIAN/postinst").write_text(POSTINST)
    (folder / "DEBIAN/postinst").chmod(0o755)


@contextlib.contextmanager
def served(toy: Repository) -> Iterator[tuple[int, list[str]]]:
    """The toy repository by HTTP, to the testbed's hosts; the port, and the paths of all requests."""
    paths = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            paths.append(self.path)

    with answering(functools.partial(Handler, directory=toy.path)) as port:
        yield port, paths


@contextlib.contextmanager
def proxy() -> Iterator[str]:
    """The URL of an HTTP proxy, to the testbed's hosts: they have no way to the internet."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with urllib.request.urlopen(self.path, timeout=60) as answer:  # noqa: S310 - from Debian's apt
                    self.send_response(answer.status)
                    self.send_header("Content-Length", answer.headers["Content-Length"])
                    self.end_headers()
                    shutil.copyfileobj(answer, self.wfile)
            except urllib.error.HTTPError as error:
                self.send_error(error.code)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    with answering(Handler) as port:
        yield f"http://{SELF}:{port}"


@contextlib.contextmanager
def answering(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of a server that answers the testbed's hosts."""
    with http.server.ThreadingHTTPServer((SELF, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def copy(host: Host, *paths: Path) -> None:
    """Copy them to the same places on the host."""
    words = [str(path.relative_to("/")) for path in paths]
    with subprocess.Popen(["tar", "-C", "/", "-c", *words], stdout=subprocess.PIPE) as pack:
        subprocess.run(host.ssh_command("--", "tar -C / -x"), stdin=pack.stdout, check=True, timeout=PATIENCE)
    assert pack.returncode == 0


def install(host: Host) -> Path:
    """vclust, as it is installed here, in a folder like a user's home; the Python to run it with."""
    environment = BIN.parent
    packages = Path(yaml.__file__).parent.parent
    copy(
        host,
        *(PROJECT / name for name in ("vclust_py", "metapackages")),
        *(environment / "pyvenv.cfg", *BIN.glob("python*")),
        *(path for name in INSTALLED for path in packages.glob(name)),
    )
    host.ssh(f"chown nobody {PROJECT}; chmod 700 {PROJECT}")
    return BIN / "python"


CLEAR = """\
systemctl disable --now vclust-upkeep-toy.timer; systemctl disable --now vclust-keeper-toy
rm -rf /etc/systemd/system/vclust-*-toy.* /etc/systemd/system/vclust-netns-* {root}; systemctl daemon-reload; true
"""


@pytest.fixture(scope="module")
def python(kvm_hosts: list[Host]) -> Path:
    """With vclust, on the second host."""
    return install(kvm_hosts[1])


def make_units(host: Host, own: Site, python: Path, folder: Path) -> bool:
    """Whether the role has changed anything; `folder` is for its inventory."""
    inventory.write([host], own.root, folder / "inventory")
    path = folder / "timer.yml"
    path.write_text(PLAYBOOK.format(settings=json.dumps(own.to_mapping()), python=python))
    argv = [BIN / "ansible-playbook", "-i", folder / "inventory", path]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return "changed=0 " not in done.stdout


def run_timer(host: Host, since: str) -> str:
    """What the timer starts, and what comes behind it: what they have written into the journal since that second.

    The timer may have started them by itself meanwhile.
    """
    first, *behind = (f"vclust-{word}-toy.service" for word in ("upkeep", "bases", "packages", "caches"))
    said = host.ssh(
        f"systemctl start {first}; systemctl start {' '.join(behind)};"
        f" journalctl -o cat --since @{since} -u 'vclust-*-toy.service';"
        f" systemctl show {first} {' '.join(behind)} --property Result",
        timeout=PATIENCE,
    )
    assert re.findall(r"^Result=(.*)", said, re.MULTILINE) == ["success"] * 4, said
    return said


@pytest.mark.kvm
def test_on_a_machine_with_systemd(
    kvm_hosts: list[Host], python: Path, toy: Repository, site: Site, minimal: Path, tmp_path: Path
) -> None:
    """What the timer starts, on a machine that could be a site manager: from an archive to a cache."""
    host, unit, root = kvm_hosts[1], "vclust-upkeep-toy", site.root / "toy"
    toy.add("program", files=a_program)
    toy.publish()
    with contextlib.ExitStack() as stack:
        port, asked = stack.enter_context(served(toy))
        shutil.rmtree(root, ignore_errors=True)
        stack.callback(shutil.rmtree, root)
        settings = {
            "suite": "toy",
            "sources": f"{root}/toy.sources",
            "cache_every": 5,
            "cache_state": "configured",
        }
        own, _ = make_site(root, minimal, **settings)
        (root / "toy.sources").write_text(
            f"Types: deb\nURIs: http://{SELF}:{port}\nSuites: toy\nComponents: main\nSigned-By: {root}/toy.gpg\n"
        )
        shutil.copy(toy.path / "toy.gpg", root)
        lock = closure(["program"], suite="toy", architecture="amd64", kernel=KERNEL, site=own, report=quiet)
        remember(own, *[lock] * 5)
        shutil.rmtree(own.apt)  # so that the machine fetches the index as well
        asked.clear()
        clear = CLEAR.format(root=root)
        host.ssh(clear)  # of a test run that was killed
        stack.callback(host.ssh, clear)
        copy(host, root)
        since = host.ssh("date +%s").strip()
        assert [make_units(host, own, python, tmp_path) for _ in range(2)] == [True, False]
        assert unit in host.ssh("systemctl list-timers --no-legend")
        assert host.ssh(f"stat -c %a {root}/upkeep.json").strip() == "600"
        before = host.ssh("losetup --all; findmnt --list --noheadings --output TARGET")

        said = run_timer(host, since)
        assert re.findall(r"^built (1 packages, .*)", said, re.MULTILINE) != [], said
        assert [Path(name).name for name in asked if name.endswith(".deb")] == ["program_1.0_all.deb"]
        assert host.ssh("losetup --all; findmnt --list --noheadings --output TARGET") == before

        # In the cache: what the package has made.
        (image,) = host.ssh(f"ls {root}/images/cache-*.qcow2").split()
        raw = "/root/cache.raw"
        assert (
            host.ssh(
                f"qemu-img convert -O raw {image} {raw}; debugfs -R 'stat /usr/bin/toy' {raw} 2>/dev/null; rm {raw}"
            ).find("Mode:  06755")
            >= 0
        )


@pytest.mark.long
@pytest.mark.kvm
def test_a_base_image_is_renewed_on_a_machine_with_systemd(
    kvm_hosts: list[Host], python: Path, own: Site, toys: Repository, tmp_path: Path
) -> None:
    """Debian's packages come from its archives, by a proxy; then a cache is built over the new base."""
    host, clear = kvm_hosts[1], CLEAR.format(root=own.root)
    with contextlib.ExitStack() as stack:
        with_toy = replace(outdated(own, toys), apt_proxy=stack.enter_context(proxy()))
        shutil.rmtree(own.apt)  # the machine fetches the index as well
        own.make_directories()
        host.ssh(clear)  # of a test run that was killed
        stack.callback(host.ssh, clear)
        copy(host, own.root)
        since = host.ssh("date +%s").strip()
        make_units(host, with_toy, python, tmp_path)
        before = host.ssh("losetup --all; findmnt --list --noheadings --output TARGET")
        there = set(host.ssh(f"ls {own.images}").split())
        said = run_timer(host, since)
        suite = own.default_suite
        assert re.search(rf"^renewed the base image of {suite} for amd64, for netbase", said, re.MULTILINE), (
            said
        )
        assert re.search(r"^built 1 packages, ", said, re.MULTILINE), said
        assert host.ssh("losetup --all; findmnt --list --noheadings --output TARGET") == before

        # Its file system is whole, and what is newest in it; the cache stands on it.
        new = set(host.ssh(f"ls {own.images}").split()) - there
        (base,) = (name for name in new if re.fullmatch(r"base-.*\.qcow2", name))
        (cache,) = (name for name in new if re.fullmatch(r"cache-.*\.qcow2", name))
        raw = "/root/base.raw"
        looked = host.ssh(
            f"cd {own.images}; qemu-img convert -O raw {base} {raw}; e2fsck -f -n {raw}"
            f" && debugfs -R 'stat /usr/bin/sudo' {raw} && debugfs -R 'cat /var/lib/dpkg/status' {raw};"
            f" rm {raw}; qemu-img info {cache}",
            timeout=PATIENCE,
        )
        assert "Mode:  04755" in looked
        assert re.search(r"^Package: netbase\n(\S.*\n)*Version: 99$", looked, re.MULTILINE)
        assert re.search(rf"^backing file: {re.escape(base)}", looked, re.MULTILINE), looked
        # There is nothing more to do.
        since = host.ssh("date +%s").strip()
        assert not re.search(r"^(renewed|built|not) ", run_timer(host, since), re.MULTILINE)


KEPT = "kept"
PORT = 7022
END = "UPDATE clusters SET state = 'stopped', ends = 1, ended = 1"
"""Its lease has, and the grace time after it."""


def a_kept_cluster(own: Site) -> clusters.Cluster:
    """In the site's state: a cluster that was ready on the machine itself, which has lost all of it."""
    software = {
        "name": KEPT,
        "network": "192.168.79.0/24",
        "ssh_keys": [f"zoe:{trust.new_key().public}"],
        "users": ["zoe:*"],
        "heal": "off",
        "lease": "8h",
    }
    hardware = {"number_of_nodes": 1, "ram": "512MB"}
    request = requests.from_mapping({"hardware": hardware, "software": software}, "test")
    with Session(own) as session:
        clusters.register(session.store, request)
        cluster = clusters.get(session.store, KEPT)
        address = str(request.software.network[1])
        node = clusters.Node(
            *(0, f"{KEPT}01", "localhost", "qemu:///system", address, "52:54:00:00:00:01"),
            *(str(uuid.uuid4()), 1, 512 << 20, 4 << 30),
        )
        clusters.place(session.store, cluster, [node])
        session.store.execute("UPDATE clusters SET state = 'ready', ends = ?", (time.time() + 28800,))
        session.store.execute("UPDATE observed_nodes SET state = 'ready'", ())
    return cluster


def test_the_keeper_within_what_its_unit_leaves(disk_path: Path) -> None:
    """It makes a lost network and the gateway again, and takes both away when a lease has ended."""
    settings = {"egress": "none", "gateway": {"port": PORT}, "lease_grace": "1m"}
    own = Site.from_mapping({"root": str(disk_path), **settings})
    disk_path.chmod(0o711)  # for the gateway's account
    own.make_directories()
    cluster = a_kept_cluster(own)
    segment = cluster.segment
    port = Path("/sys/class/net", f"{segment}r", "master")

    def listens() -> bool:
        with contextlib.suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", PORT), 5).close()
            return True
        return False

    with contextlib.ExitStack() as stack:
        stack.callback(network.remove, segment, cluster.network)
        keeper = stack.enter_context(keeper_unit(own.root, **settings))
        wait_for("the network", port.exists, 30)
        wait_for("the gateway", listens, 30)
        assert "192.168.79.254/24" in output("ip", "-netns", segment, "-4", "address", "show", "eth0")
        with sqlite3.connect(own.database) as connection:
            connection.execute(END)
        wait_for("its end", lambda: not Path("/run/netns", segment).exists(), 30)
        wait_for("the end of the gateway", lambda: not listens(), 30)
    assert keeper.stdout is not None
    assert keeper.stdout.read().splitlines() == [
        f"{KEPT}: its network is made again",
        f"{KEPT}: the time after its lease is over, it is removed",
    ]


@pytest.mark.kvm
def test_the_keeper_on_a_machine_with_systemd(
    kvm_hosts: list[Host], python: Path, site: Site, tmp_path: Path
) -> None:
    """It makes a lost network, the way in and the gateway again, for all to see, and ends a lease."""
    host, unit, root = kvm_hosts[1], "vclust-keeper-toy", site.root / "keeper"
    shutil.rmtree(root, ignore_errors=True)
    own = Site.from_mapping(
        {"root": str(root), "egress": "none", "gateway": {"port": PORT}, "lease_grace": "1m"}
    )
    own.make_directories()
    cluster = a_kept_cluster(own)
    segment = cluster.segment

    def until(commands: str) -> str:
        """What they print, once they succeed."""
        loop = f"for i in $(seq 120); do if ( {commands} ); then exit; fi; sleep 1; done"
        log = f"journalctl -o cat -u {unit} -u 'vclust-netns-*'; systemctl --failed"
        return host.ssh(f"{loop}; ( {commands} ); {log}; exit 1", timeout=PATIENCE)

    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        host.ssh(CLEAR.format(root=root))
        # Which the keeper has started: a roll-out that comes next is to find the host as it was.
        stack.callback(host.ssh, f"{CLEAR.format(root=root)}systemctl stop libvirtd")
        # As the first create does, which needs an account for the way in.
        host.ssh(
            f"getent passwd {ACCOUNT} || useradd --system --user-group --home-dir / --password '*' {ACCOUNT}"
        )
        copy(host, root)
        make_units(host, own, python, tmp_path)
        there = f"ip netns list | grep -w {segment} && [ -e /sys/class/net/{segment}r/master ]"
        until(there)
        assert "192.168.79.254/24" in host.ssh(f"ip -netns {segment} -4 address show eth0")
        until(f"ss -Hltn 'sport = :{PORT}' | grep LISTEN && ls /run/vclust/ssh/{segment}/*")
        mounts = host.ssh(f"readlink /proc/1/ns/mnt /proc/$(systemctl show -P MainPID {unit})/ns/mnt").split()
        assert len(set(mounts)) == 2
        # What is half there is taken away, and made again.
        again = f"journalctl -o cat -u {unit} | grep -c '{KEPT}: its network is made again'"
        until(f"[ $({again}) = 1 ]")
        host.ssh(f"ip link delete {segment}")
        until(f"{there} && [ $({again}) = 2 ]")
        # It goes on after a restart, beside what it has started before.
        host.ssh(f"systemctl restart {unit}; ip netns delete {segment}")
        until(there)

        lines = (
            "import sqlite3",
            f"c = sqlite3.connect('{own.database}')",
            f'c.execute("{END}")',
            "c.commit()",
        )
        host.ssh("\n".join(["python3 - <<'end'", *lines, "end"]))
        until(f"! ip netns list | grep {segment} && [ ! -e /sys/class/net/{segment} ]")
        until(f"! ss -Hltn 'sport = :{PORT}' | grep LISTEN")
        until(f"journalctl -o cat -u {unit} | grep '{KEPT}: the time after its lease is over, it is removed'")
        assert host.ssh("systemctl list-units --failed --plain --no-legend 'vclust-*'") == ""
        host.ssh(f"systemd-analyze security --threshold=43 {unit}.service")
        host.ssh(f"systemd-analyze security --threshold=30 vclust-netns-add@{segment}.service")
