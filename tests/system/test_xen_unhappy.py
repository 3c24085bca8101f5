"""What goes wrong with a host that is another machine: one clear error, and nothing that `destroy` cannot clear."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from checker import Machine, check
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from emulated import bed, underlay
from emulated.host import Host
from emulated.kinds import XEN
from emulatedhost import PATIENCE, held, left_on
from machine import BIN, Vclust, left_since, output, snapshot

from vclust_py import pki
from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.xen]

NOBODY = "10.77.0.99"
"""An address of the testbed's network that no machine has."""

REQUEST = """\
[Hardware]
NumberOfNodes: 1
RAM: 256MB

[Software]
Name: {name}
Hostname: {name}%02d
Network: 192.168.79.0/24
Packages: hello
"""


class Unhappy(Vclust):
    def asks(self, name: str) -> Path:
        return self.request(name, REQUEST.format(name=name))

    def fails(self, *words: str | Path, code: int) -> str:
        """What it says on standard error, without progress; in bounded time."""
        done = subprocess.run(
            [BIN / "vclust", "-i", self.inventory, *words],
            capture_output=True,
            text=True,
            timeout=self.patience,
        )
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("["))

    def host_variable(self, name: str, value: str) -> None:
        folder = self.inventory / "host_vars"
        folder.mkdir(exist_ok=True)
        (folder / "xen1.yml").write_text(f"---\n{name}: {json.dumps(value)}\n")

    def clear(self) -> None:
        for cluster in self.json("list"):
            if cluster["name"].startswith("u-"):
                self("destroy", cluster["name"])


@pytest.fixture
def vclust(host: Host, rolled_out: Path, tmp_path: Path) -> Iterator[Unhappy]:
    shutil.copytree(rolled_out, tmp_path / "inventory")
    # Which an emulated processor bears more easily than pvh.
    (tmp_path / "inventory/group_vars/vm_hosts.yml").write_text("---\nvclust_xen_guest: pv\n")
    command = Unhappy(tmp_path / "inventory", tmp_path, PATIENCE)
    command.clear()
    yield command
    if host.pid() is None:
        bed.up(XEN, 1, site_root(command), print)
    shutil.rmtree(command.inventory / "host_vars", ignore_errors=True)
    command.clear()


def site_root(vclust: Unhappy) -> Path:
    found = re.search(r'root: "?([^"\s]+)', (vclust.inventory / "group_vars/site_testbed.yml").read_text())
    assert found is not None
    return Path(found[1])


def test_a_host_that_is_off_or_hangs(host: Host, vclust: Unhappy) -> None:
    request = vclust.asks("u-off")
    vclust.host_variable("vclust_libvirt_uri", f"xen+tls://{NOBODY}/system")
    said = vclust.fails("create", request, code=4)
    assert re.search(rf"place: xen1: {NOBODY} port 16514 cannot be reached", said), said
    vclust("destroy", "u-off")  # nothing of it is over there

    shutil.rmtree(vclust.inventory / "host_vars")
    host.pause()
    try:
        said = vclust.fails("plan", request, code=4)
        assert said.startswith("vclust: place: xen1: "), said
        assert re.search(r"no answer after|does not answer|keepalive|cannot be reached", said), said
    finally:
        host.resume()


def test_certificates_that_are_not_this_sites_or_have_expired(vclust: Unhappy, tmp_path: Path) -> None:
    request, good = vclust.asks("u-tls"), Site(root=site_root(vclust)).pki
    other = Site(root=tmp_path / "other-site")
    other.make_directories()
    pki.roll_out(other)
    vclust.host_variable("vclust_libvirt_uri", f"xen+tls://10.77.0.11/system?pkipath={other.pki}")
    said = vclust.fails("plan", request, code=4)
    assert "which is not this site's authority" in said, said
    assert "playbooks/site.yml" in said

    old = tmp_path / "old"
    shutil.copytree(good, old)
    ca = x509.load_pem_x509_certificate((old / "cacert.pem").read_bytes())
    key = serialization.load_pem_private_key((old / "cakey.pem").read_bytes(), None)
    ours = x509.load_pem_x509_certificate((old / "clientcert.pem").read_bytes())
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = (
        x509.CertificateBuilder()
        .subject_name(ours.subject)
        .issuer_name(ca.subject)
        .public_key(ours.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(yesterday - timedelta(days=1))
        .not_valid_after(yesterday)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    (old / "clientcert.pem").write_bytes(expired.public_bytes(serialization.Encoding.PEM))
    vclust.host_variable("vclust_libvirt_uri", f"xen+tls://10.77.0.11/system?pkipath={old}")
    said = vclust.fails("plan", request, code=4)
    assert f"{old}/clientcert.pem: expired on {yesterday:%Y-%m-%d}" in said, said


def test_memory_and_disk_that_the_host_has_not(host: Host, vclust: Unhappy) -> None:
    big = vclust.request("big", REQUEST.format(name="u-big").replace("256MB", "8GB"))
    said = vclust.fails("create", big, code=3)
    assert re.search(r"xen1: has \d+ MB of memory left, a node takes 8", said), said
    # The hypervisor's memory, not dom0's.
    left = int(re.findall(r"has (\d+) MB", said)[0])
    free = int(host.ssh("xl info free_memory"))
    assert abs(left - free * 1.048576) < 64

    full = "/var/lib/vclust/full"
    host.ssh(f"fallocate -l $(($(stat -f -c '%a * %S' /var/lib/vclust) - (256 << 20))) {full}")
    try:
        said = vclust.fails("create", vclust.asks("u-full"), code=3)
        assert re.search(r"xen1: has \d+ MB of disk left, a node takes \d+", said), said
    finally:
        host.ssh(f"rm {full}")
    assert vclust.json("list") == []


def test_a_domain_of_that_name_which_libvirt_does_not_see(host: Host, vclust: Unhappy) -> None:
    here, there = snapshot(), held(host)
    name = "u-name01.u-name"
    kernel = host.ssh("ls /var/lib/vclust/images/kernel-* | head -n 1").strip()
    host.ssh(f"xl create -p -q /dev/null 'name=\"{name}\"' 'type=\"pvh\"' memory=128 'kernel=\"{kernel}\"'")
    try:
        said = vclust.fails("create", vclust.asks("u-name"), code=4)
        assert f"start {name}" in said, said
        assert "xl list" in said, said
        vclust("destroy", "u-name")
        assert name in host.ssh("xl list")  # it was not ours
    finally:
        host.ssh(f"xl destroy {name}")
    assert left_on(host, there) == {}
    assert left_since(here) == {}


def test_libvirt_restarts_and_images_vanish_and_the_host_dies(host: Host, vclust: Unhappy) -> None:
    here, there = snapshot(), held(host)
    # An image that somebody has removed over there is sent again.
    host.ssh("rm -f /var/lib/vclust/images/kernel-*")
    request = vclust.asks("u-dies")
    creating = subprocess.Popen(
        [BIN / "vclust", "-i", vclust.inventory, "create", request], stderr=subprocess.PIPE, text=True
    )
    assert reaches(vclust, "u-dies", "started", creating)
    host.ssh("systemctl restart libvirtd")
    assert creating.communicate(timeout=PATIENCE)[1].count("Traceback") == 0
    assert creating.returncode == 0
    vclust("destroy", "u-dies")
    assert left_on(host, there) == {}

    creating = subprocess.Popen(
        [BIN / "vclust", "-i", vclust.inventory, "create", request], stderr=subprocess.PIPE, text=True
    )
    assert reaches(vclust, "u-dies", "started", creating)
    host.stop()
    said = creating.communicate(timeout=PATIENCE)[1]
    assert creating.returncode == 4, said
    # Either the node's console or the phase that follows finds nobody there.
    assert re.search(r"vclust: (install|ready): .*xen1: ", said), said
    said = vclust.fails("destroy", "u-dies", code=4)
    assert "xen1: 10.77.0.11 port 16514 cannot be reached" in said, said
    assert [cluster["name"] for cluster in vclust.json("list")] == ["u-dies"]

    bed.up(XEN, 1, site_root(vclust), print)
    vclust("destroy", "u-dies")
    assert left_on(host, there).keys() <= {"device models"}  # dom0's own is another process now
    assert left_since(here).keys() <= {"processes", "interfaces"}  # the host itself is another process now
    assert differences(host, vclust) == []


@pytest.mark.long
def test_a_link_that_is_down_for_a_while(host: Host, vclust: Unhappy) -> None:
    """While it receives images, and while its node starts; `create` waits, or goes on when it is called again."""
    host.ssh("rm -f /var/lib/vclust/images/kernel-*")
    request = vclust.asks("u-link")
    creating = subprocess.Popen(
        [BIN / "vclust", "-i", vclust.inventory, "create", request], stderr=subprocess.PIPE, text=True
    )
    for state in ("placed", "started"):
        if not reaches(vclust, "u-link", state, creating):
            break
        link(host, "down")
        time.sleep(LINK_DOWN)
        link(host, "up")
    said = creating.communicate(timeout=PATIENCE)[1]
    assert "Traceback" not in said
    assert creating.returncode in (0, 4), said
    vclust("create", request)
    assert differences(host, vclust) == []
    assert "u-link01" in vclust("ssh", "u-link", "--", "hostname")
    vclust("destroy", "u-link")
    assert differences(host, vclust) == []


@pytest.mark.long
def test_the_site_manager_is_lost(host: Host, vclust: Unhappy, tmp_path: Path) -> None:
    vclust("create", vclust.asks("u-lost"))
    vclust("ssh", "u-lost", "--", "echo kept > kept; sync")
    vclust("site", "backup", tmp_path / "backup.tar.gz")
    number = host.ssh("xl list | grep u-lost")
    with lost(vclust, "u-lost"):
        assert vclust.json("list") == []
        vclust("site", "restore", tmp_path / "backup.tar.gz")
        assert [one["state"] for one in vclust.json("list")] == ["ready"]
        assert "kept" in vclust("ssh", "u-lost", "--", "cat kept")
        assert [line for line in differences(host, vclust) if "image" not in line] == []
    assert differences(host, vclust) == []
    assert number.split()[:2] == host.ssh("xl list | grep u-lost").split()[:2]  # it has run on
    vclust("destroy", "u-lost")
    assert differences(host, vclust) == []


@pytest.mark.long
def test_a_host_goes_off_under_its_node_then_for_good_and_comes_back_after_all(
    host: Host, vclust: Unhappy
) -> None:
    request, domain = vclust.asks("u-power"), "u-power01.u-power"
    vclust("create", request)
    vclust("ssh", "u-power", "--", "echo kept > kept; sync")
    host.stop()
    bed.up(XEN, 1, site_root(vclust), print)
    said = differences(host, vclust)
    assert f"xen1: {domain} is ready in the store, and does not run" in said, said
    vclust("create", request)  # the same node on the same disk
    assert differences(host, vclust) == []
    assert "kept" in vclust("ssh", "u-power", "--", "cat kept")

    host.stop()
    said = vclust.fails("destroy", "u-power", code=4)
    assert "destroy u-power --forget-host xen1" in said, said
    said = vclust("destroy", "u-power", "--forget-host", "xen1")
    assert f"xen1 is written off: there may still be the domains {domain}" in said, said
    assert vclust.json("list") == []
    assert check(site_root(vclust)) == []

    # What is left there goes before the next cluster's nodes are placed.
    bed.up(XEN, 1, site_root(vclust), print)
    assert domain in host.ssh("virsh -c xen:///system list --all --name")
    assert vclust.json("site", "status")[0]["hosts"][0]["problems"] == []
    assert domain not in host.ssh("virsh -c xen:///system list --all --name")
    assert differences(host, vclust) == []


@contextlib.contextmanager
def lost(vclust: Unhappy, cluster: str) -> Iterator[None]:
    """The site manager is a new machine with nothing but vclust; at the end it gets its images back."""
    root, segment = site_root(vclust), vclust.json("show", cluster)["ssh"]["netns"]
    away = root / "lost"
    away.mkdir()
    for name in ("state.db", "state.db-wal", "state.db-shm", "pki", "locks", "clusters", "images"):
        if (root / name).exists():
            (root / name).rename(away / name)
    output("ip", "netns", "delete", segment)
    for device in (f"{segment}x", segment):
        output("ip", "link", "delete", device)
    try:
        yield
    finally:
        shutil.rmtree(root / "images", ignore_errors=True)
        (away / "images").rename(root / "images")
        shutil.rmtree(away)


LINK_DOWN = 20  # seconds


def link(host: Host, state: str) -> None:
    """As if its cable were pulled, or put in again."""
    output("ip", "link", "set", underlay.tap(host.name), state)


def differences(host: Host, vclust: Unhappy) -> list[str]:
    return check(site_root(vclust), [Machine(host.name, host.ssh, "xen:///system")])


def reaches(vclust: Unhappy, name: str, state: str, creating: "subprocess.Popen[str]") -> bool:
    """Whether all nodes come to be in this state, or `create` ends before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [cluster for cluster in vclust.json("list") if cluster["name"] == name]
        if found and all(node["state"] == state for node in found[0]["nodes"]) and found[0]["nodes"]:
            return True
        if creating.poll() is not None:
            return False
        assert time.monotonic() < deadline, found
        time.sleep(1)
