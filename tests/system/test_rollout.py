"""A host on its way through a site: kept well, drained, its keys replaced, taken out, admitted again.

On a host without systemd (namespaces of this machine, real libvirtd and hop), with `--kvm` on one with it, and with
`--xen --long` on a Xen host.
Verified on the host by its own tools, not by what vclust says of itself.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated.host import Host
from emulated.kinds import XEN
from emulatedhost import PATIENCE
from machine import BIN
from namespacehost import NamespaceHost, namespace_host
from shared import inventory

from vclust_py import pki
from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="hosts are root's")]

OURS = """\
for path in /etc/vclust /etc/pki /usr/local/lib/vclust /var/lib/vclust /etc/libvirt/hooks/network.d/vclust \
    /etc/init.d/vclust-hop /etc/rc2.d/*vclust-hop /etc/systemd/system/*/vclust* /etc/systemd/system/vclust* \
    /etc/modules-load.d/vclust.conf /etc/default/grub.d/vclust.cfg; do
    if [ -e $path ]; then echo $path; fi
done
grep -l vclust /etc/libvirt/libvirtd.conf
grep -x 'LIBVIRTD_ARGS="--listen"' /etc/default/libvirtd
grep -s -e --log=guest /etc/default/xen
getent passwd vclust
ss -Htln '( sport = :7365 or sport = :16514 )'
pgrep -f "[h]op.pyz"
nft list tables | grep vclust
virsh -q pool-list --all --name | grep vclust
virsh -q list --all --name | grep left
virsh -q net-list --all --name | grep vc0123456789
true
"""
"""What vclust has left on a host; nothing when there is nothing."""
FILES = (
    "find /etc/vclust /etc/pki /etc/libvirt/hooks /etc/libvirt/libvirtd.conf /usr/local/lib/vclust"
    " -exec stat -c '%n %Z' {} +"
)
"""What is there, and when it was changed last."""
DOMAIN = (
    "<domain type='{type}'><name>{name}</name><memory>65536</memory>{os}<devices>"
    "<disk type='file' device='disk'><source file='{disk}'/><target dev='{device}'/></disk></devices></domain>"
)
KINDS = {
    "qemu": {"type": "qemu", "os": "<os><type>hvm</type></os>", "device": "vda"},
    "xen": {"type": "xen", "os": "<os><type>linux</type><kernel>/vmlinuz</kernel></os>", "device": "xvda"},
}
CLUSTERS = "/var/lib/vclust/clusters"
NETWORK = "<network><name>vc0123456789</name><bridge name='vc0123456789'/></network>"
KEYS = "/etc/pki/libvirt/private/serverkey.pem /etc/vclust/hop-key.pem"


class Rolled:
    """A host, and the command where the host's site manager is."""

    def __init__(self, host: NamespaceHost | Host, site: Site, folder: Path) -> None:
        self.host, self.site, self.inventory = host, site, folder
        self.kind = "xen" if isinstance(host, Host) and host.kind is XEN else "qemu"

    def __call__(self, *words: str, code: int = 0) -> str:
        start = self.host.vclust() if isinstance(self.host, NamespaceHost) else (BIN / "vclust",)
        done = subprocess.run(
            [*start, "-i", self.inventory, "site", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def virsh(self, commands: str) -> str:
        """What shell commands on the host print; virsh in them asks the host's own libvirt."""
        return self.host.ssh(f"export LIBVIRT_DEFAULT_URI={self.kind}:///system\n{commands}")

    def status(self, code: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("status", "--json", code=code))[0]["hosts"]
        return found

    def state(self, state: str) -> None:
        (self.inventory / "host_vars").mkdir(exist_ok=True)
        (self.inventory / f"host_vars/{self.host.name}.yml").write_text(f"---\nvclust_host_state: {state}\n")

    def keys(self) -> set[str]:
        return set(self.host.ssh(f"sha256sum {KEYS} | cut -d' ' -f1").split())

    def authority(self) -> list[str]:
        return self.host.ssh(
            "cd /etc/pki/CA; openssl x509 -noout -fingerprint -in cacert.pem; grep -c BEGIN cacert.pem"
        ).split()


@pytest.fixture(
    scope="module",
    params=[
        "namespace",
        pytest.param("kvm", marks=pytest.mark.kvm),
        pytest.param("xen", marks=[pytest.mark.xen, pytest.mark.long]),
    ],
)
def rolled(
    request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rolled]:
    folder = tmp_path_factory.mktemp("rollout") / "inventory"
    with contextlib.ExitStack() as stack:
        if request.param == "namespace":
            # Not in /tmp, which the host has its own of.
            host: NamespaceHost | Host = stack.enter_context(namespace_host(site.root / "rollout-host"))
            own = Site(root=folder.with_name("site"))
            host.inventory(own.root, folder)
        else:
            found = request.getfixturevalue("host" if request.param == "xen" else "kvm_hosts")
            host, own = found if isinstance(found, Host) else found[0], site
            inventory.write([host], site.root, folder)
        rolled = Rolled(host, own, folder)
        rolled("rollout")
        yield rolled


@pytest.fixture
def vclust(rolled: Rolled) -> Iterator[Rolled]:
    rolled.state("active")
    yield rolled
    rolled.state("active")
    rolled("rollout")


def test_status_and_drain(vclust: Rolled) -> None:
    host, name = vclust.host, vclust.host.name
    (found,) = vclust.status()
    assert (found["name"], found["state"], found["reachable"], found["problems"]) == (
        name,
        "active",
        True,
        [],
    )
    assert found["versions"]["libvirt"] == host.ssh("virsh --version").strip()
    assert found["versions"]["hypervisor"].startswith({"qemu": "QEMU ", "xen": "Xen "}[vclust.kind])
    assert found["versions"]["hop"] == "1"
    ends = host.ssh(
        'date +%s -d "$(openssl x509 -noout -enddate -in /etc/vclust/hop-cert.pem | cut -d= -f2)"'
    )
    assert found["certificates"]["hop"] == int(ends)
    vclust.state("drain")
    said = vclust("rollout", "--limit", name)
    assert f"{name}: drained: no new nodes; none is left" in said
    assert f"{name}: as it should be" in said
    assert "drain" in vclust("status")
    systemd = "[ -d /run/systemd/system ]"
    host.ssh(
        f"if {systemd}; then systemctl stop vclust-hop.socket vclust-hop; else service vclust-hop stop; fi"
    )
    (found,) = vclust.status(code=4)
    (problem,) = found["problems"]
    assert problem.startswith(f"{name}: not reached")
    assert "hint: is that machine up?" in problem
    host.ssh(f"if {systemd}; then systemctl start vclust-hop.socket; else service vclust-hop start; fi")
    assert vclust.status()[0]["problems"] == []
    # At most 3.0 of 10; else this fails.
    host.ssh(f"! {systemd} || systemd-analyze security --threshold=30 vclust-hop.service")


def test_all_keys_are_replaced(vclust: Rolled) -> None:
    site, name = vclust.site, vclust.host.name
    before, own = vclust.authority(), vclust.keys()
    client = (site.pki / "clientcert.pem").read_bytes()
    pki.roll_out(site, rotate=True)  # and there it is interrupted
    assert vclust.status()[0]["problems"] == []
    assert f"{name}: as it should be" not in vclust("rotate-keys")
    after = vclust.authority()
    assert (before[-1], after[-1]) == ("1", "1")
    assert before != after
    assert not own & vclust.keys()
    assert (site.pki / "clientcert.pem").read_bytes() != client
    assert sorted(path.name for path in site.pki.glob("*")) == [
        "cacert.pem", "cacrl.pem", "cakey.pem", "clientcert.pem", "clientkey.pem", "issued.json"
    ]  # fmt: skip
    assert vclust.status()[0]["problems"] == []
    assert vclust("rollout").count("as it should be") == 2


def test_taken_out_and_admitted_again(vclust: Rolled) -> None:
    host, name = vclust.host, vclust.host.name
    certificates = "/etc/pki/libvirt/servercert.pem /etc/vclust/hop-cert.pem"
    host.ssh(f"rm -rf /root/stolen; mkdir /root/stolen; cp {KEYS} {certificates} /root/stolen")
    stolen = vclust.keys()
    # What a destroyed cluster may have left, and somebody else's.
    for text, verb in (
        (DOMAIN.format(name="left.n01", disk=f"{CLUSTERS}/left.1/n01.qcow2", **KINDS[vclust.kind]), "define"),
        (DOMAIN.format(name="others", disk="/srv/others.qcow2", **KINDS[vclust.kind]), "define"),
        (NETWORK, "net-create"),
    ):
        vclust.virsh(f'echo "{text}" | virsh {verb} /dev/stdin')
    vclust.status()  # which asks by storage pools
    assert {"left.n01", "vc0123456789", "vclust-clusters"} <= set(vclust.virsh(OURS).split())
    vclust.state("absent")
    there = host.ssh(FILES)
    said = vclust("rollout", "--check", "--diff")
    assert "-file 0600 root:root" in said
    assert "PRIVATE" not in said
    assert host.ssh(FILES) == there
    vclust("rollout")
    assert vclust.virsh(OURS) == ""
    assert "others" in vclust.virsh("virsh -q list --all --name; virsh undefine others").splitlines()
    assert vclust.status() == []
    assert f"{name}: as it should be" in vclust("rollout")

    vclust.state("active")
    vclust("rollout")
    assert vclust.status()[0]["problems"] == []
    # Somebody who has kept copies of the keys takes the host's place.
    host.ssh(
        "cd /root/stolen && cp serverkey.pem /etc/pki/libvirt/private/ && cp servercert.pem /etc/pki/libvirt/"
        " && cp hop-*.pem /etc/vclust/ && if [ -d /run/systemd/system ];"
        " then systemctl stop vclust-hop.service; systemctl restart libvirtd; else service vclust-hop restart;"
        " kill $(cat /run/libvirtd.pid); while pgrep -x libvirtd; do sleep 0.1; done; libvirtd -d --listen; fi"
    )
    (found,) = vclust.status(code=4)
    assert "servercert.pem there): revoked when its host was taken out of the site" in found["problems"][0]
    assert vclust.keys() == stolen
    vclust("rollout")
    assert not vclust.keys() & stolen
    assert vclust.status()[0]["problems"] == []


def test_a_new_host_touches_no_other(vclust: Rolled) -> None:
    """It does not answer; what the first has is as it was, to the time of its last change."""
    path = vclust.inventory / "hosts.yml"
    before, there = path.read_text(), vclust.host.ssh(FILES)
    new = "            new:\n              ansible_host: 10.79.0.99\n              ansible_ssh_timeout: 5\n"
    path.write_text(before + new + "              vclust_libvirt_uri: qemu+tls://10.79.0.99/system\n")
    try:
        said = vclust("rollout", "--limit", "new", code=4)
        assert "new: failed: " in said
        assert f"{vclust.host.name}: " not in said
        assert vclust.host.ssh(FILES) == there
    finally:
        path.write_text(before)
