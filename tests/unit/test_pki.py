"""The site's authority, what it issues, and when it issues again; TLS by OpenSSL with what comes out."""

import contextlib
import os
import ssl
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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


def test_an_authority_that_ends_is_replaced(site: Site) -> None:
    """In time as by command, so that no host is cut off; when it has ended there is nothing to go on with."""
    _, csr = request()
    first = pki.roll_out(site, xen1(csr), now=NOW)[1]
    change, second = pki.roll_out(
        site, xen1(csr, certificate=first.certificate), check=True, now=NOW + timedelta(days=3600)
    )
    assert "less than 60 days left" in change.before["authority"]
    assert second.rotation == pki.BOTH
    assert first.ca in second.ca
    change, third = pki.roll_out(
        site, xen1(csr, certificate=first.certificate), now=NOW + timedelta(days=3651)
    )
    assert "it has ended" in change.before["authority"]
    assert "of another authority" in change.before["site manager"]
    assert "of another authority" in change.before["xen1"]
    assert (third.rotation, first.ca in third.ca, bool(third.certificate)) == ("", False, True)


class FakeHost:
    """A host as the roll-out leaves it."""

    def __init__(self, name: str) -> None:
        self.machine = Machine(name, "192.0.2.11")
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.ca = ""

    def roll_out(self, site: Site, now: datetime = NOW) -> pki.Trust:
        """As role vm_host does it: new keys lie beside those in use until they have certificates."""
        trust, keys, shown = pki.roll_out(site, self.machine, now=now)[1], {}, self.machine
        for purpose in trust.rekey:
            keys[purpose], csr = request()
            shown = replace(shown, **{"csr" if purpose == "libvirt" else "hop_csr": csr})
        if keys:
            trust = pki.roll_out(site, shown, now=now)[1]
            assert trust.rekey == ()
        self.machine = replace(shown, certificate=trust.certificate, hop_certificate=trust.hop_certificate)
        self.keys |= keys
        self.ca = trust.ca
        return trust

    def certificate(self, purpose: str) -> str:
        return self.machine.certificate if purpose == "libvirt" else self.machine.hop_certificate


def meet(site: Site, host: FakeHost, folder: Path) -> None:
    """The site manager and both servers of the host take each other, each by what it has.  Raises ssl.SSLError."""
    for purpose in ("libvirt", "hop"):
        key = host.keys[purpose].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "both.pem").write_bytes(key + host.certificate(purpose).encode())
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=host.ca)
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_cert_chain(folder / "both.pem")
        client = ssl.create_default_context(cafile=str(site.pki / "cacert.pem"))
        client.load_cert_chain(site.pki / "clientcert.pem", site.pki / "clientkey.pem")
        client.load_verify_locations(site.pki / "cacrl.pem")
        client.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = host.machine.name if purpose == "libvirt" else f"{host.machine.name}.hop.vclust.invalid"
        ends = (
            client.wrap_bio(back, there, server_hostname=name),
            server.wrap_bio(there, back, server_side=True),
        )
        for _ in range(4):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        assert ends[1].getpeercert()


def test_all_keys_are_replaced_while_everything_works(site: Site, tmp_path: Path) -> None:
    hosts = [FakeHost("xen1"), FakeHost("xen2")]

    def all_meet() -> None:
        for host in hosts:
            meet(site, host, tmp_path)

    for host in hosts:
        assert host.roll_out(site).rotation == ""
    all_meet()
    earlier = contents(site)
    assert pki.roll_out(site, rotate=True, check=True, now=NOW)[0].changed
    assert contents(site) == earlier
    change, trust = pki.roll_out(site, rotate=True, now=NOW)
    assert "it is being replaced" in change.before["authority"]
    assert trust.rotation == pki.BOTH
    all_meet()
    # Once more, as after an interruption: it goes on with the same.
    assert not pki.roll_out(site, rotate=True, now=NOW)[0].changed
    keys = dict(hosts[0].keys)
    for host in hosts:
        assert host.roll_out(site).ca == trust.ca
        all_meet()
        assert pki.proceed(site, ["xen1", "xen2"], now=NOW)[1] == pki.BOTH
        assert pki.confirm(site, host.machine.name).changed
        assert not pki.confirm(site, host.machine.name).changed
        all_meet()
    assert not set(keys.values()) & set(hosts[0].keys.values())
    assert pki.roll_out(site, hosts[0].machine, now=NOW)[1].rekey == ()
    assert pki.proceed(site, ["xen1", "xen2", "off"], now=NOW)[2] == ("off",)
    client = contents(site)["clientkey.pem"]
    assert pki.proceed(site, ["xen1", "xen2"], check=True, now=NOW)[0].changed
    assert contents(site)["clientkey.pem"] == client
    assert pki.proceed(site, ["xen1", "xen2"], now=NOW)[1:] == (pki.NEW, ("xen1", "xen2"))
    assert contents(site)["clientkey.pem"] != client
    assert "old-cakey.pem" not in contents(site)
    all_meet()
    for host in hosts:
        assert host.roll_out(site).ca == (site.pki / "cacert.pem").read_text()
        all_meet()
        assert pki.proceed(site, ["xen1", "xen2"], now=NOW)[1] == pki.NEW
        pki.confirm(site, host.machine.name)
    assert pki.proceed(site, ["xen1", "xen2"], now=NOW)[1:] == ("", ())
    all_meet()
    assert not pki.proceed(site, ["xen1", "xen2"], now=NOW)[0].changed
    assert contents(site).keys() == earlier.keys()
    assert not pki.roll_out(site, hosts[0].machine, now=NOW)[0].changed


@pytest.mark.parametrize("step", range(12))
def test_replacing_keys_is_killed_at_any_file(site: Site, tmp_path: Path, step: int) -> None:
    """Whatever file was the last one written: the host and the site manager take each other, and it goes on."""
    host = FakeHost("xen1")
    host.roll_out(site)
    written = 0

    class Killed(BaseException):
        pass

    write, remove = pki._Folder.write, pki._Folder.remove

    def dying(method: Any) -> Any:
        def call(folder: Any, *arguments: Any) -> None:
            nonlocal written
            if written == step:
                raise Killed
            written += 1
            method(folder, *arguments)

        return call

    def replace_keys() -> None:
        pki.roll_out(site, rotate=True, now=NOW)
        for _ in range(2):
            host.roll_out(site)
            pki.confirm(site, "xen1")
            pki.proceed(site, ["xen1"], now=NOW)

    before = (site.pki / "cacert.pem").read_text()
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(pki._Folder, "write", dying(write))
        patch.setattr(pki._Folder, "remove", dying(remove))
        replace_keys()
    # The next run of any kind.
    pki.roll_out(site, now=NOW)
    meet(site, host, tmp_path)
    replace_keys()
    meet(site, host, tmp_path)
    assert (site.pki / "cacert.pem").read_text().count("BEGIN") == 1
    assert (site.pki / "cacert.pem").read_text() != before
    assert not list(site.pki.glob("old-*"))


def test_a_host_that_is_taken_out_is_let_in_nowhere(site: Site, tmp_path: Path) -> None:
    hosts = [FakeHost("xen1"), FakeHost("xen2")]
    for host in hosts:
        host.roll_out(site)
    assert set(pki.ends(site)) == {"", "xen1", "xen2"}
    before = contents(site)
    would, _ = pki.withdraw(site, Machine("xen1", ""), check=True, now=NOW)
    assert contents(site) == before
    change, known = pki.withdraw(site, Machine("xen1", ""), now=NOW)
    assert (change, known, change.changed) == (would, True, True)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        meet(site, hosts[0], tmp_path)
    meet(site, hosts[1], tmp_path)
    assert set(pki.ends(site)) == {"", "xen2"}
    assert not pki.withdraw(site, Machine("xen1", ""), now=NOW)[0].changed
    assert pki.withdraw(site, Machine("xen3", ""), now=NOW)[1] is False
    # It comes back with the keys it had, which somebody else may have as well.
    stolen = replace(hosts[0].machine), dict(hosts[0].keys)
    trust = pki.roll_out(site, hosts[0].machine, now=NOW)[1]
    assert (trust.rekey, trust.certificate, trust.hop_certificate) == (("libvirt", "hop"), "", "")
    hosts[0].roll_out(site)
    meet(site, hosts[0], tmp_path)
    hosts[0].machine, hosts[0].keys = stolen
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        meet(site, hosts[0], tmp_path)


def test_taken_out_under_another_name_and_without_a_list(site: Site, tmp_path: Path) -> None:
    """Its certificates of another name have the same keys; those that it shows itself need no list."""
    host = FakeHost("old")
    host.roll_out(site)
    earlier = replace(host.machine)
    host.machine = replace(host.machine, name="new")
    host.roll_out(site)
    (site.pki / "issued.json").unlink()  # an earlier release kept none
    pki.roll_out(site, earlier, now=NOW)
    assert pki.withdraw(site, host.machine, now=NOW)[1]
    for machine in (earlier, host.machine):
        host.machine = machine
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
            meet(site, host, tmp_path)


def test_what_was_issued_is_damaged(site: Site) -> None:
    FakeHost("xen1").roll_out(site)
    (site.pki / "issued.json").write_text("{")
    with pytest.raises(
        VclustError, match=r"issued\.json: got .*, expected what hosts were given \(JSON\)\n  hint"
    ):
        pki.roll_out(site, now=NOW)


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
    """The two sides take each other by name; nothing under another name is taken."""
    host = FakeHost("xen1")
    host.roll_out(site)
    meet(site, host, tmp_path)
    host.machine = replace(host.machine, name="xen2")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        meet(site, host, tmp_path)


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
    }
    answer = call("vclust_pki", arguments)
    assert answer["changed"]
    assert (answer["rekey"], answer["rotation"]) == ([], "")
    assert answer["client"] == "CN=vclust site manager"
    arguments["host"] |= {name: answer[name] for name in ("certificate", "hop_certificate")}
    assert not call("vclust_pki", arguments)["changed"]
    assert not call("vclust_pki", arguments, check=True)["changed"]

    everybody = {"site": arguments["site"], "hosts": ["xen1"]}
    assert call("vclust_pki", everybody)["rotation"] == ""
    assert call("vclust_pki", {"site": arguments["site"], "rotate": True})["rotation"] == "both"
    assert call("vclust_pki", everybody)["waiting"] == ["xen1"]
    confirmed = {"site": arguments["site"], "host": {"name": "xen1", "state": "confirmed"}}
    assert [call("vclust_pki", confirmed, check=check)["changed"] for check in (True, False, False)] == [
        True, True, False
    ]  # fmt: skip
    assert call("vclust_pki", everybody)["rotation"] == "new"
    gone = {"site": arguments["site"], "host": {"name": "xen1", "state": "absent"}}
    assert [call("vclust_pki", gone, check=check)["changed"] for check in (True, False, True, False)] == [
        True, True, False, False
    ]  # fmt: skip
