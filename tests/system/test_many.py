"""A cluster of emulated nodes over hosts that are namespaces of this machine, in two racks: no systemd, no KVM.

Verified on the hosts by the checker, and in the nodes.
"""

import shutil
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from checker import Machine, check
from emulatedhost import roll_out
from machine import Vclust, left_since, snapshot
from many.bed import Bed, Shape
from many.host import Host

from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("apt-cacher-ng") is None, reason="apt-cacher-ng is not installed"),
]

BED = Bed("vcn", IPv4Network("10.83.0.0/16"))
NAME = "t-many"
REQUEST = f"""\
[Hardware]
NumberOfNodes: 2
RAM: 512MB
Spread: racks

[Software]
Hostname: {NAME}%02d
Network: 192.168.82.0/24
Packages: hello
"""


@pytest.fixture
def hosts(site: Site) -> Iterator[list[Host]]:
    if BED.folder.exists():  # of a test run that was killed
        BED.down()
    yield BED.up(2, Shape(racks=2), site.root, print)
    BED.down()


def test_a_cluster_over_hosts_of_two_racks(hosts: list[Host], site: Site, tmp_path: Path) -> None:
    roll_out(BED.inventory)
    assert roll_out(BED.inventory) == set()
    machines = [Machine(host.name, host.ssh, "qemu:///system") for host in hosts]
    vclust, here = Vclust(BED.inventory, tmp_path), snapshot()
    vclust("create", vclust.request(NAME, REQUEST))
    try:
        nodes = vclust.json("show", NAME)["nodes"]
        assert {node["host"]: node["accelerator"] for node in nodes} == {"h1": "tcg", "h2": "tcg"}
        assert check(site.root, machines) == []
        assert vclust("ssh", NAME, "--", f"ssh {NAME}02 hostname").strip() == f"{NAME}02"
        # By the site's proxy, whose end in the cluster is on this machine and no host of it.
        said = vclust("ssh", NAME, "2", "--", "apt-get -q update && apt-get -qy install sl && dpkg -s sl")
        assert "Status: install ok installed" in said
        assert (site.root / "proxy/cache").is_dir()
    finally:
        vclust("destroy", NAME)
    assert check(site.root, machines) == []
    assert left_since(here) == {}
