"""What goes wrong with a host that is another machine: one clear error, and nothing that `destroy` cannot clear."""

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from emulated.host import Host
from emulatedhost import REQUEST, Unhappy, held, left_on, unhappy
from machine import left_since, snapshot

from vclust_py import pki
from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.xen]

NOBODY = "10.77.0.99"
"""An address of the testbed's network that no machine has."""


@pytest.fixture
def vclust(host: Host, rolled_out: Path, tmp_path: Path) -> Iterator[Unhappy]:
    with unhappy(host, rolled_out, tmp_path) as command:
        yield command


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
    request, good = vclust.asks("u-tls"), Site(root=vclust.root).pki
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
