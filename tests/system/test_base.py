"""The base image and its installer in a real machine, by bare QEMU: no libvirt, no cluster.  Needs root."""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import left_since, snapshot
from node import Node

from vclust_py import seed
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk, fat
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.guest.trust import Authority, KeyPair, new_key
from vclust_py.image.base import BaseImages, ensure_base
from vclust_py.image.builder import ensure_bundle
from vclust_py.metapackages import MetaPackage, Step
from vclust_py.request import from_mapping
from vclust_py.resolve import Lock, closure
from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap and private files need root"),
]

KERNEL = "linux-image-cloud-amd64"


def quiet(message: str, done: int, total: int) -> None:
    pass


def lock_of(site: Site, *names: str) -> Lock:
    return closure(
        names, suite=site.default_suite, architecture="amd64", kernel=KERNEL, site=site, report=quiet
    )


@pytest.fixture(scope="session")
def images(site: Site) -> BaseImages:
    return ensure_base(site, lock_of(site), quiet)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Authority, KeyPair, KeyPair]:
    """Folder with the private keys `user` and `admin`, the authority, and the pairs."""
    folder, authority = tmp_path_factory.mktemp("keys"), Authority()
    user, admin = authority.new_user_key("john"), new_key()
    fat.write_all({folder / "user": user.private.encode(), folder / "admin": admin.private.encode()})
    (folder / "user-cert.pub").write_text(user.certificate)
    return folder, authority, user, admin


REQUEST = {
    "hardware": {"number_of_nodes": 2, "ram": "488MB", "disk": "4GB"},
    "software": {
        "name": "alone",
        "users": [{"name": "john", "password_hash": "$6$saltsalt$" + "x" * 86}],
        "network": "10.0.2.0/24",
        "packages": [],
    },
}


@pytest.fixture
def prepared(
    site: Site, images: BaseImages, keys: tuple[Path, Authority, KeyPair, KeyPair], tmp_path: Path
) -> Callable[..., Node]:
    """Make a node of `lock`, its cluster changed by `change`, its machine by keywords of `Node`."""

    def make(
        lock: Lock | None = None,
        change: Callable[[ClusterIdentity], ClusterIdentity] = lambda cluster: cluster,
        mac: str = "",
        **options: object,
    ) -> Node:
        lock = lock or lock_of(site)
        request = from_mapping(REQUEST, "test")
        _, authority, user, admin = keys
        nodes = dict(zip(request.hostnames, request.addresses, strict=True))
        first = seed.new_node(request.hostnames[0], request.addresses[0], authority)
        packages = tuple(f"{package.name}={package.version}" for package in (*lock.base, *lock.packages))
        identity = ClusterIdentity(
            1, request, nodes, authority, {"john": user}, admin.public, packages, (), {}, {"john": 1000}
        )
        disks = (tmp_path / "seed.img", tmp_path / "cluster.img")
        data = seed.build(first, request, {"john": 1000}), cluster_disk.build(change(identity))
        fat.write_all(dict(zip(disks, data, strict=True)))
        paths = (images.base.path, images.kernel.path, images.installer.path)
        return Node(
            *(tmp_path, *paths, *disks),
            mac=mac or first.mac,
            address=str(first.address),
            network=str(request.software.network),
            router=str(request.router),
            **options,  # type: ignore[arg-type]
        )

    return make


def test_a_node_is_a_debian_of_its_own(
    prepared: Callable[..., Node], keys: tuple[Path, Authority, KeyPair, KeyPair]
) -> None:
    folder = keys[0]

    def on(node: Node, command: str, user: str = "root") -> str:
        done = node.ssh(folder / ("user" if user == "john" else "admin"), user, command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with prepared() as node:
        assert node.wait_for_report().startswith("vclust: ready up="), node.console.read_text()
        cpu = node.cpu_seconds()
        assert [line.split()[1] for line in node.said()] == ["installer", "installed", "ready"]
        assert on(node, "id -un; pwd", "john") == "john\n/home/john"
        # The limit, to a completed login; some more for a machine under load.
        assert node.cpu_seconds() < 20, cpu
        assert node.resident_bytes() < 700 << 20

        assert on(node, "cat /proc/1/comm") == "systemd"
        assert on(node, "systemctl --failed --no-legend") == ""
        assert on(node, "journalctl -b -u ssh -o cat | grep -c listening") != "0"
        assert int(on(node, "systemctl list-timers --no-legend | wc -l")) >= 4
        assert int(on(node, "df --output=size -B1 / | tail -n 1")) > 3.5 * (1 << 30)
        assert on(node, "ip route show default").startswith("default via 10.0.2.254 dev eth0")
        assert on(node, "grep -c : /etc/passwd; sort /etc/passwd | uniq -d") == on(
            node, "grep -c : /etc/shadow"
        )
        assert "URIs: " in on(node, "cat /etc/apt/sources.list.d/vclust.sources")
        assert on(node, "apt-get check -qq && dpkg --audit") == ""
        assert (
            on(
                node,
                "ls -A /var/lib/apt/lists /etc/apt/sources.list.d /etc/apt/apt.conf.d | grep -c mmdeb || :",
            )
            == "0"
        )
        # A unit of one's own, and one that a timer starts.
        on(
            node,
            "printf '[Service]\\nType=oneshot\\nExecStart=/bin/touch /run/did\\n"
            "[Install]\\nWantedBy=multi-user.target\\n'"
            " >/etc/systemd/system/mine.service && systemctl enable mine.service"
            " && systemd-run --on-active=1 --timer-property=AccuracySec=100ms touch /run/timer",
        )
        machine_id = on(node, "cat /etc/machine-id")

        # udev sees a disk that comes later, and makes its links.
        extra = node.console.with_name("extra")
        with open(extra, "wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mke2fs", "-q", "-F", "-L", "extra", extra], check=True)
        node.tell_qemu(f"drive_add 0 if=none,id=extra,file={extra},format=raw")
        node.tell_qemu("device_add virtio-blk-pci,drive=extra")
        for path in ("/dev/disk/by-label/extra", "/run/timer"):
            on(node, f"for i in $(seq 50); do [ -e {path} ] && exit; sleep .2; done; ls {path}")

        # From inside: through the installer again, identity stays, and the unit was started.
        node.ssh(folder / "admin", "root", "echo changed >/etc/motd; systemctl reboot")
        deadline = time.monotonic() + 600
        while (
            sum(line.startswith("vclust: ready") for line in node.said()) < 2 and time.monotonic() < deadline
        ):
            time.sleep(0.2)
        assert [line.split()[1] for line in node.said()][3:] == ["installer", "ready"], node.said()
        assert on(node, "cat /etc/machine-id /etc/motd; ls /run/did") == f"{machine_id}\nchanged\n/run/did"

        # From the host: the power button.
        node.tell_qemu("system_powerdown")
        assert node.wait_for_end(600)
        # No service had to be waited for until its time was up.
        assert "stop job" not in node.console.read_text(errors="replace")


def test_a_wrong_version_is_named(prepared: Callable[..., Node]) -> None:
    def other(cluster: ClusterIdentity) -> ClusterIdentity:
        packages = tuple("dash=99" if name.startswith("dash=") else name for name in cluster.packages)
        return dataclasses.replace(cluster, packages=packages)

    with prepared(change=other) as node:
        assert node.wait_for_report().startswith("vclust: failed package: dash: expected 99, is 0.5")


def test_a_step_that_fails_leaves_its_log_on_the_console(prepared: Callable[..., Node]) -> None:
    """The disk that the log is on goes with the node; the console is what the site manager keeps."""
    bundle = MetaPackage(
        "bad", "", (), steps=(Step("all", "echo first; echo 'vclust: ready'; echo oops >&2; exit 3"),)
    )

    with prepared(change=lambda cluster: dataclasses.replace(cluster, meta_packages=(bundle,))) as node:
        deadline = time.monotonic() + 600
        while node.running and time.monotonic() < deadline:
            time.sleep(0.1)
        lines = [line.strip() for line in node.console.read_text(errors="replace").splitlines()]
    (failed,) = [number for number, line in enumerate(lines) if line.startswith("vclust: failed step-")]
    assert lines[failed].endswith("bad: oops")
    assert lines[failed - 2 : failed] == ["log: first", "log: oops"]


def test_a_missing_interface_is_named_and_the_node_stops(prepared: Callable[..., Node]) -> None:
    with prepared(mac="52:54:00:00:00:99") as node:
        said = node.wait_for_report()
        assert said == "vclust: failed network: no interface has the hardware address 52:54:0a:00:02:01"
        assert node.wait_for_end()


def test_packages_of_a_bundle_are_installed(
    site: Site, prepared: Callable[..., Node], tmp_path: Path
) -> None:
    lock = lock_of(site, "hello")
    bundle = ensure_bundle(site, lock, (), quiet)
    with prepared(lock=lock, bundle=bundle.path) as node:
        report = node.wait_for_report()
        assert report.startswith("vclust: ready"), node.console.read_text()
        assert report.endswith(f"packages={len(lock.base) + len(lock.packages)}")
        assert any(line.startswith("vclust: progress unpack") for line in node.said())


@pytest.fixture
def emptied(tmp_path: Path, site: Site) -> Iterator[Site]:
    """Another site with the same package index settings, to be built in."""
    before = snapshot()
    yield dataclasses.replace(site, root=tmp_path / "site")
    assert left_since(before) == {}


def test_kill_9_leaves_nothing(emptied: Site) -> None:
    lock = lock_of(emptied)
    child = os.fork()
    if child == 0:
        ensure_base(emptied, lock, quiet)
        os._exit(0)
    root = None
    deadline = time.monotonic() + 600
    while root is None and time.monotonic() < deadline:
        root = next(emptied.images.glob("*.tmp/files/var/lib/dpkg/status"), None)
        time.sleep(0.1)
    assert root is not None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not list(emptied.images.glob("base-*"))


def test_a_lock_with_other_versions_is_refused(site: Site, images: BaseImages, tmp_path: Path) -> None:
    lock = lock_of(site)
    first = dataclasses.replace(lock.base[0], version="0.0")
    other = dataclasses.replace(lock, base=(first, *lock.base[1:]))
    with pytest.raises(VclustError, match=f"other versions than the lock: {first.name}=0.0"):
        ensure_base(site, other, quiet)


@pytest.mark.long
def test_what_the_site_adds_is_in_its_base(site: Site, images: BaseImages, tmp_path: Path) -> None:
    """A base of its own, with the tools, and nobody's request has to bring them."""
    own = dataclasses.replace(site, base_packages=("nano", "rsync"))
    lock = lock_of(own)
    made = ensure_base(own, lock, quiet)
    try:
        assert made.base.path != images.base.path
        assert made.installer.path == images.installer.path
        disk = tmp_path / "disk"
        subprocess.run(["qemu-img", "convert", "-O", "raw", made.base.path, disk], check=True)

        def debugfs(command: str) -> str:
            done = subprocess.run(
                ["debugfs", "-R", command, disk], capture_output=True, text=True, check=True
            )
            return done.stdout

        for program in ("/usr/bin/rsync", "/bin/nano"):
            assert "Type: regular" in debugfs(f"stat {program}")
        entries = debugfs("cat /var/lib/dpkg/status").split("\n\n")
        states = {entry.split("\n")[0]: "Status: install ok installed" in entry for entry in entries}
        assert states["Package: rsync"]
        assert states["Package: nano"]
        assert lock_of(own, "rsync").packages == ()
        assert "rsync" in [package.name for package in lock_of(site, "rsync").packages]
        assert ensure_base(own, lock, quiet).base == made.base
    finally:
        for path in own.images.glob(f"{made.base.path.stem}*"):
            path.unlink()
