"""The site's authority, what it issues, and when it issues again; TLS by OpenSSL with what comes out."""

import contextlib
import os
import ssl
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from test_module import call

from vclust_py import pki
from vclust_py.errors import VclustError
from vclust_py.pki import Machine
from vclust_py.site import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRETS = ("cakey.pem", "clientkey.pem")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(root=tmp_path / "site")


def request(name: str = "host") -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A key, and a signing request with that common name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.PEM).decode()


HOP_CSR = request()[1]


def xen1(csr: str = "", **values: object) -> Machine:
    return replace(Machine("xen1", "192.0.2.11", csr, hop_csr=HOP_CSR), **values)


def hop_names(trust: pki.Trust) -> list[str]:
    certificate = x509.load_pem_x509_certificate(trust.hop_certificate.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def contents(site: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in site.pki.iterdir()}


def test_four_ways(site: Site) -> None:
    _, csr = request()
    would, _ = pki.roll_out(site, xen1(csr), check=True, now=NOW)
    assert would.changed
    assert not site.root.exists()
    real, trust = pki.roll_out(site, xen1(csr), now=NOW)
    assert real.changed
    assert list(real.after) == list(would.after)
    made = contents(site)
    again = xen1(csr, certificate=trust.certificate, hop_certificate=trust.hop_certificate)
    assert not pki.roll_out(site, again, now=NOW)[0].changed
    assert not pki.roll_out(site, again, check=True, now=NOW)[0].changed
    assert contents(site) == made


def test_keys_are_roots_and_in_no_result(site: Site) -> None:
    _, csr = request()
    change, trust = pki.roll_out(site, xen1(csr), now=NOW)
    told = repr(change) + repr(trust)
    for name in SECRETS:
        path = site.pki / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text().splitlines()[1] not in told
    assert "PRIVATE" not in told
    assert site.pki.stat().st_mode & 0o777 == 0o700
    assert not list(site.pki.glob("*.tmp"))


def test_what_certificates_say(site: Site) -> None:
    key, csr = request("vclust site manager")
    trust = pki.roll_out(site, xen1(csr), now=NOW)[1]
    server = x509.load_pem_x509_certificate(trust.certificate.encode())
    client = x509.load_pem_x509_certificate((site.pki / "clientcert.pem").read_bytes())
    ca = x509.load_pem_x509_certificate(trust.ca.encode())
    assert server.public_key() == key.public_key()
    # A host cannot take the site manager's name by asking for it.
    assert server.subject.rfc4514_string() == "CN=xen1"
    assert client.subject.rfc4514_string() == trust.client
    for certificate, purpose in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH), (client, ExtendedKeyUsageOID.CLIENT_AUTH)
    ):  # fmt: skip
        certificate.verify_directly_issued_by(ca)
        extensions = certificate.extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["xen1"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.11"]
    assert ca.not_valid_after_utc - NOW == timedelta(days=3650)
    assert server.not_valid_after_utc - NOW == timedelta(days=730)


def test_issued_again(site: Site) -> None:
    _, csr = request()
    first = pki.roll_out(site, xen1(csr), now=NOW)[1]
    same = xen1(csr, certificate=first.certificate)

    def told(machine: Machine, now: datetime = NOW) -> str:
        change, trust = pki.roll_out(site, machine, check=True, now=now)
        assert (trust.certificate == first.certificate) is (change.before["xen1"] == change.after["xen1"])
        return change.before["xen1"] if trust.certificate != first.certificate else ""

    assert told(same) == ""
    assert told(same, NOW + timedelta(days=730 - 61)) == ""
    assert "less than 60 days left" in told(same, NOW + timedelta(days=730 - 59))
    assert "another now" in told(replace(same, address="192.0.2.12"))
    assert "another now" in told(replace(same, address="xen1.example.org"))
    assert "its key is another's" in told(replace(same, csr=request()[1]))
    assert told(replace(same, certificate="rubbish")) == ""  # as if there were none
    assert pki.roll_out(site, replace(same, certificate="rubbish"), check=True, now=NOW)[0].changed

    other = Site(root=site.root.with_name("other"))
    foreign = pki.roll_out(other, xen1(csr), now=NOW)[1].certificate
    change, _ = pki.roll_out(site, replace(same, certificate=foreign), check=True, now=NOW)
    assert "of another authority" in change.before["xen1"]


def test_the_authority_ends_and_all_are_issued_again(site: Site) -> None:
    _, csr = request()
    first = pki.roll_out(site, xen1(csr), now=NOW)[1]
    later = NOW + timedelta(days=3600)
    change, second = pki.roll_out(site, xen1(csr, certificate=first.certificate), now=later)
    assert first.ca != second.ca
    assert "less than 60 days left" in change.before["authority"]
    assert "of another authority" in change.before["site manager"]
    assert "of another authority" in change.before["xen1"]


def test_interrupted_renewal_and_lost_key(site: Site) -> None:
    pki.roll_out(site, now=NOW)
    key = site.pki / "cakey.pem"
    good = key.read_bytes()
    pki.roll_out(Site(root=site.root.with_name("other")), now=NOW)
    key.write_bytes((site.root.with_name("other") / "pki/cakey.pem").read_bytes())
    assert "its key is another's" in pki.roll_out(site, check=True, now=NOW)[0].before["authority"]
    key.unlink()
    with pytest.raises(VclustError, match=r"cakey\.pem: missing, or not a key\n  hint: put it back"):
        pki.roll_out(site, now=NOW)
    key.write_bytes(good)
    assert not pki.roll_out(site, now=NOW)[0].changed


def test_the_hop_has_a_key_and_a_name_of_its_own(site: Site) -> None:
    _, csr = request()
    trust = pki.roll_out(site, xen1(csr), now=NOW)[1]
    hop = x509.load_pem_x509_certificate(trust.hop_certificate.encode())
    server = x509.load_pem_x509_certificate(trust.certificate.encode())
    assert hop.public_key() != server.public_key()
    assert hop.subject.rfc4514_string() == "CN=xen1.hop.vclust.invalid"
    assert hop_names(trust) == ["xen1.hop.vclust.invalid"]
    same = xen1(csr, certificate=trust.certificate, hop_certificate=trust.hop_certificate)
    # Of an earlier release the host has libvirt's alone; that stays.
    earlier = replace(same, hop_csr="", hop_certificate="")
    change, new = pki.roll_out(site, replace(earlier, hop_csr=HOP_CSR), check=True, now=NOW)
    assert (new.certificate, change.before["xen1, hop"]) == (trust.certificate, "")
    assert pki.roll_out(site, earlier, check=True, now=NOW)[0].after["xen1, hop"] == "a certificate"
    # A host's other address is nothing to its hop; libvirt's certificate is none for it.
    moved = pki.roll_out(site, replace(same, address="192.0.2.12"), check=True, now=NOW)[1]
    assert (moved.hop_certificate, moved.certificate == trust.certificate) == (trust.hop_certificate, False)
    swapped = replace(same, hop_csr=csr, hop_certificate=trust.certificate)
    change, new = pki.roll_out(site, swapped, check=True, now=NOW)
    assert "another now" in change.before["xen1, hop"]
    assert hop_names(new) == ["xen1.hop.vclust.invalid"]


def test_not_a_signing_request(site: Site) -> None:
    with pytest.raises(VclustError, match="xen1: not a signing request"):
        pki.roll_out(site, xen1("rubbish"), now=NOW)


def test_hosts_side_by_side(site: Site) -> None:
    """Forks of Ansible call this at the same moment, before there is anything."""

    issued = []

    def admit(number: int) -> None:
        _, trust = pki.roll_out(site, replace(xen1(request()[1]), address=f"192.0.2.{number}"), now=NOW)
        issued.append(trust.ca)

    threads = [threading.Thread(target=admit, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert issued == [(site.pki / "cacert.pem").read_text()] * 8


def test_tls(site: Site, tmp_path: Path) -> None:
    """The two sides take each other, by name and by address; nothing under another name is taken."""
    key, csr = request()
    trust = pki.roll_out(site, xen1(csr))[1]
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "both.pem").write_bytes(private + trust.certificate.encode())
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(site.pki / "cacert.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(tmp_path / "both.pem")
    client = ssl.create_default_context(cafile=str(site.pki / "cacert.pem"))
    client.load_cert_chain(site.pki / "clientcert.pem", site.pki / "clientkey.pem")

    def meet(address: str) -> object:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            client.wrap_bio(back, there, server_hostname=address),
            server.wrap_bio(there, back, server_side=True),
        )
        for _ in range(4):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        return ends[1].getpeercert()

    for address in ("192.0.2.11", "xen1"):
        assert meet(address)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"192\.0\.2\.99"):
        meet("192.0.2.99")


def test_module(site: Site) -> None:
    """As the roll-out calls it; the signing request as openssl on a host makes it."""
    csr, hop_csr = (
        subprocess.run(
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
             "/CN=host", "-keyout", "/dev/null"], check=True, capture_output=True, text=True,
        ).stdout
        for _ in range(2)
    )  # fmt: skip
    arguments = {
        "site": {"root": str(site.root)},
        "host": {"name": "xen1", "address": "127.0.0.2", "csr": csr, "hop_csr": hop_csr},
        "machines": ["127.0.0.2", "127.0.0.3"],
    }
    answer = call("vclust_pki", arguments)
    assert answer["changed"]
    assert set(answer["addresses"]) >= {"127.0.0.2", "127.0.0.3"}
    assert answer["client"] == "CN=vclust site manager"
    arguments["host"] |= {name: answer[name] for name in ("certificate", "hop_certificate")}
    assert not call("vclust_pki", arguments)["changed"]
    assert not call("vclust_pki", arguments, check=True)["changed"]
