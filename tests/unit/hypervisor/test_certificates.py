"""Why TLS fails, with certificates made here and a real TLS server."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vclust_py.hypervisor import certificates
from vclust_py.x509 import Authority, revocation_list

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


class Issued:
    """A certificate with its key; its own authority when no other is named."""

    def __init__(
        self,
        name: str,
        authority: "Issued | None" = None,
        *,
        start: datetime = NOW - 3 * DAY,
        end: datetime = NOW + DAY,
        address: str = "",
    ) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        issuer = authority or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(authority is None, None), critical=True)
        )
        if address:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        self.certificate = builder.sign(issuer.key, hashes.SHA256())

    def write(self, certificate: Path, key: Path | None = None) -> None:
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        if key:
            key.write_bytes(
                self.key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )


@pytest.fixture(scope="module")
def ours() -> Issued:
    return Issued("our site")


@pytest.fixture(scope="module")
def others() -> Issued:
    return Issued("another site")


@contextmanager
def server(folder: Path, shown: Issued) -> Iterator[int]:
    """A TLS server with that certificate; yields its port."""
    shown.write(folder / "servercert.pem", folder / "serverkey.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "servercert.pem", folder / "serverkey.pem")

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def fault(folder: Path, authority: Issued, client: Issued, shown: Issued) -> str:
    authority.write(folder / "cacert.pem")
    client.write(folder / "clientcert.pem", folder / "clientkey.pem")
    with server(folder, shown) as port:
        found = certificates.fault("h1", folder, "127.0.0.1", port)
    if found is not None:
        assert "\n  hint: run the roll-out: ansible-playbook playbooks/site.yml" in str(found)
    return str(found).partition("\n")[0]


def test_good_ones(tmp_path: Path, ours: Issued) -> None:
    assert fault(tmp_path, ours, Issued("c", ours), Issued("s", ours, address="127.0.0.1")) == "None"
    assert fault(tmp_path, ours, Issued("c", ours), Issued("127.0.0.1", ours)) == "None"


def test_ours_has_expired(tmp_path: Path, ours: Issued) -> None:
    client = Issued(
        "c", ours, end=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), start=datetime(2025, 1, 1, tzinfo=UTC)
    )
    found = fault(tmp_path, ours, client, Issued("s", ours, address="127.0.0.1"))
    assert found == f"h1: TLS: {tmp_path}/clientcert.pem: expired on 2026-01-02 03:04 UTC"


def test_ours_is_not_valid_yet(tmp_path: Path, ours: Issued) -> None:
    found = fault(tmp_path, ours, Issued("c", ours, start=NOW + DAY, end=NOW + 2 * DAY), Issued("s", ours))
    assert f"{tmp_path}/clientcert.pem: valid from " in found


def test_the_hosts_has_expired(tmp_path: Path, ours: Issued) -> None:
    shown = Issued("s", ours, address="127.0.0.1", end=NOW - DAY)
    found = fault(tmp_path, ours, Issued("c", ours), shown)
    assert "certificate of 127.0.0.1 (/etc/pki/libvirt/servercert.pem there): expired on " in found


def test_the_host_is_of_another_site(tmp_path: Path, ours: Issued, others: Issued) -> None:
    found = fault(tmp_path, ours, Issued("c", ours), Issued("s", others, address="127.0.0.1"))
    assert "issued by 'CN=another site', which is not this site's authority 'CN=our site'" in found


def test_another_authority_of_the_same_name(tmp_path: Path, ours: Issued) -> None:
    shown = Issued("s", Issued("our site"), address="127.0.0.1")
    assert "which is not this site's authority" in fault(tmp_path, ours, Issued("c", ours), shown)


def test_the_host_has_another_address(tmp_path: Path, ours: Issued) -> None:
    found = fault(tmp_path, ours, Issued("c", ours), Issued("s", ours, address="10.0.0.1"))
    assert found.endswith(": made for 10.0.0.1")


def test_the_host_was_taken_out(tmp_path: Path, ours: Issued) -> None:
    authority = Authority(ours.certificate, ours.key)
    shown, other = Issued("s", ours, address="127.0.0.1"), Issued("o", ours)
    for serial, said in (
        (other.certificate.serial_number, "None"),
        (shown.certificate.serial_number, "revoked"),
    ):
        (tmp_path / "cacrl.pem").write_text(revocation_list(authority, [serial], NOW))
        assert said in fault(tmp_path, ours, Issued("c", ours), shown)


def test_two_authorities_while_keys_are_replaced(tmp_path: Path, ours: Issued, others: Issued) -> None:
    ours.write(tmp_path / "cacert.pem")
    Issued("c", others).write(tmp_path / "clientcert.pem", tmp_path / "clientkey.pem")
    with (tmp_path / "cacert.pem").open("ab") as file:
        file.write(others.certificate.public_bytes(serialization.Encoding.PEM))
    for authority in (ours, others):
        with server(tmp_path, Issued("s", authority, address="127.0.0.1")) as port:
            assert certificates.fault("h1", tmp_path, "127.0.0.1", port) is None


def test_a_file_is_not_there(tmp_path: Path, ours: Issued) -> None:
    ours.write(tmp_path / "cacert.pem")
    found = certificates.fault("h1", tmp_path, "127.0.0.1", 1)
    assert str(found).startswith(f"h1: TLS: {tmp_path}/clientcert.pem: No such file or directory\n")


def test_a_file_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "cacert.pem").write_text("nonsense")
    assert "not a certificate" in str(certificates.fault("h1", tmp_path, "127.0.0.1", 1))


def test_a_host_that_shows_none(tmp_path: Path, ours: Issued) -> None:
    ours.write(tmp_path / "cacert.pem")
    Issued("c", ours).write(tmp_path / "clientcert.pem", tmp_path / "clientkey.pem")
    assert certificates.fault("h1", tmp_path, "127.0.0.1", 1) is None
