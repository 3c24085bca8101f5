"""A host on its way through a site: kept well, drained, its keys replaced, taken out, admitted again.

Verified on the host, with systemd's, libvirt's and openssl's own tools, not with what vclust says of itself.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Vclust
from xen.host import Host
from xenhost import PATIENCE

from vclust_py import pki
from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.xen]

OURS = """\
ls -d /etc/vclust /usr/local/lib/vclust /var/lib/vclust /etc/pki /etc/default/grub.d/vclust.cfg 2>/dev/null
ls /etc/systemd/system/vclust-hop.* /etc/libvirt/hooks/network.d /etc/systemd/system/libvirtd*.d 2>/dev/null
grep -l vclust -r /etc --include='*' 2>/dev/null
getent passwd vclust
ss -Htln '( sport = :7365 or sport = :16514 )'
nft list tables | grep vclust
virsh -q -c xen:///system pool-list --all --name | grep vclust
systemctl list-units --all --no-legend 'vclust*'
true
"""
"""What vclust has left on a host; nothing when there is nothing."""


class Rollout(Vclust):
    def state(self, state: str) -> None:
        (self.inventory / "host_vars").mkdir(exist_ok=True)
        (self.inventory / "host_vars/xen1.yml").write_text(f"---\nvclust_host_state: {state}\n")


@pytest.fixture
def vclust(rolled_out: Path, host: Host, tmp_path: Path) -> Iterator[Rollout]:
    shutil.copytree(rolled_out, tmp_path / "inventory")
    command = Rollout(tmp_path / "inventory", tmp_path, PATIENCE)
    yield command
    # Other tests go on with the host as it was.
    command.state("active")
    command("site", "rollout")


def authority(host: Host) -> str:
    return host.ssh(
        "openssl x509 -noout -fingerprint -in /etc/pki/CA/cacert.pem; grep -c BEGIN /etc/pki/CA/cacert.pem"
    )


def test_status_and_drain(host: Host, vclust: Rollout) -> None:
    (one,) = vclust.json("site", "status")
    (found,) = one["hosts"]
    assert (found["name"], found["state"], found["reachable"], found["problems"]) == (
        "xen1",
        "active",
        True,
        [],
    )
    assert found["facts"]["accelerator"] == "xen"
    assert found["versions"]["libvirt"] == host.ssh("virsh --version").strip()
    assert found["versions"]["hypervisor"].startswith("Xen 4.")
    assert found["versions"]["hop"] == "1"
    ends = host.ssh(
        'date +%s -d "$(openssl x509 -noout -enddate -in /etc/vclust/hop-cert.pem | cut -d= -f2)"'
    )
    assert found["certificates"]["hop"] == int(ends)
    vclust.state("drain")
    said = vclust("site", "rollout", "--limit", "xen1")
    assert "xen1: drained: no new nodes; none is left" in said
    assert "xen1: as it should be" in said
    assert "xen1  drain" in vclust("site", "status")
    host.ssh("systemctl stop vclust-hop.socket vclust-hop.service")
    said = vclust("site", "status", code=4)
    assert "xen1: not reached" in said
    assert "hint:" in said


def keys(host: Host) -> set[str]:
    return set(host.ssh("cat /etc/pki/libvirt/private/*.pem /etc/vclust/hop-key.pem* | sha256sum").split())


def test_all_keys_are_replaced(site: Site, host: Host, vclust: Rollout) -> None:
    before, own = authority(host), keys(host)
    client = (site.pki / "clientcert.pem").read_bytes()
    pki.roll_out(site, rotate=True)  # and there it is interrupted
    assert vclust.json("site", "status")[0]["hosts"][0]["problems"] == []
    assert "xen1: as it should be" not in vclust("site", "rotate-keys")
    after = authority(host)
    assert (before.split()[-1], after.split()[-1]) == ("1", "1")
    assert before != after
    assert own & keys(host) == {"-"}
    assert (site.pki / "clientcert.pem").read_bytes() != client
    assert sorted(path.name for path in site.pki.glob("*")) == [
        "cacert.pem", "cacrl.pem", "cakey.pem", "clientcert.pem", "clientkey.pem", "issued.json"
    ]  # fmt: skip
    assert vclust.json("site", "status")[0]["hosts"][0]["problems"] == []
    assert vclust("site", "rollout").count("as it should be") == 2


def test_taken_out_and_admitted_again(site: Site, host: Host, vclust: Rollout) -> None:
    files = "/etc/pki/libvirt/servercert.pem /etc/pki/libvirt/private/serverkey.pem /etc/vclust/hop-*.pem"
    host.ssh(f"rm -rf /root/stolen; mkdir /root/stolen; cp {files} /root/stolen")
    assert host.ssh(OURS) != ""
    vclust.state("absent")
    said = vclust("site", "rollout", "--check", "--diff")
    assert "-file 0600 root:root" in said
    assert "PRIVATE" not in said
    assert host.ssh("ls /etc/vclust/hop-key.pem")
    vclust("site", "rollout")
    assert host.ssh(OURS) == ""
    assert host.ssh("virsh -c xen:///system list >/dev/null && echo well").strip() == "well"
    assert vclust.json("site", "status")[0]["hosts"] == []
    assert "xen1: as it should be" in vclust("site", "rollout")

    vclust.state("active")
    vclust("site", "rollout")
    assert vclust.json("site", "status")[0]["hosts"][0]["problems"] == []
    # Somebody who has kept copies of the keys takes the host's place.
    host.ssh(
        "cd /root/stolen && cp serverkey.pem /etc/pki/libvirt/private/ && cp servercert.pem /etc/pki/libvirt/"
        " && cp hop-*.pem /etc/vclust/ && systemctl stop vclust-hop.service && systemctl restart libvirtd"
    )
    said = vclust("site", "status", code=4)
    assert "revoked when its host was taken out of the site" in said
    stolen = keys(host)
    vclust("site", "rollout")
    assert stolen & keys(host) == {"-"}
    assert vclust.json("site", "status")[0]["hosts"][0]["problems"] == []


def test_one_that_is_gone_for_good(vclust: Rollout) -> None:
    """Nothing answers at its address."""
    hosts = (vclust.inventory / "hosts.yml").read_text()
    gone = "            gone:\n              ansible_host: 10.77.0.99\n              ansible_ssh_timeout: 5\n"
    (vclust.inventory / "hosts.yml").write_text(hosts + gone + "              vclust_host_state: absent\n")
    for _ in range(2):
        said = vclust("site", "rollout", "--limit", "gone")
        assert "gone: out of the site; nothing was done on the machine itself, which does not answer" in said
    assert [one["name"] for one in vclust.json("site", "status")[0]["hosts"]] == ["xen1"]
