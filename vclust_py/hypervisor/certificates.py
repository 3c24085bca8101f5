"""Why TLS to a host fails.  libvirt's own words name neither the file nor what was expected."""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from vclust_py.errors import VclustError
from vclust_py.hypervisor import ROLL_OUT
from vclust_py.x509 import is_issued_by, revoked

_TIMEOUT = 10.0


def fault(host: str, folder: Path, address: str, port: int) -> VclustError | None:
    """What is wrong with the certificates in `folder` or with the host's own; None when they look right."""
    try:
        authorities = _load(folder / "cacert.pem")  # two while keys are being replaced
        (ours,) = _load(folder / "clientcert.pem")
        (folder / "clientkey.pem").stat()
    except OSError as error:
        return VclustError(f"{host}: TLS: {error.filename}: {error.strerror}", ROLL_OUT)
    except ValueError as error:
        return VclustError(f"{host}: TLS: {folder}: not a certificate: {error}", ROLL_OUT)
    why = _date(folder / "cacert.pem", authorities[0]) or _flaw(folder / "clientcert.pem", ours, authorities)
    if why is None and (theirs := _presented(address, port)) is not None:
        what = f"the certificate of {address} (/etc/pki/libvirt/servercert.pem there)"
        why = _flaw(what, theirs, authorities) or _other_name(what, theirs, address)
        if why is None and theirs.serial_number in _revoked(folder / "cacrl.pem", theirs):
            why = f"{what}: revoked when its host was taken out of the site"
    return VclustError(f"{host}: TLS: {why}", ROLL_OUT) if why else None


def _load(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def _revoked(path: Path, certificate: x509.Certificate) -> set[int]:
    """Serial numbers that the certificate's authority has revoked."""
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:  # of an earlier release
        return set()
    return revoked(text).get(certificate.issuer.rfc4514_string(), set())


def _flaw(what: object, certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> str | None:
    if not any(is_issued_by(certificate, authority) for authority in authorities):
        return (
            f"{what}: issued by '{certificate.issuer.rfc4514_string()}', which is not this site's authority"
            f" '{authorities[0].subject.rfc4514_string()}'"
        )
    return _date(what, certificate)


def _date(what: object, certificate: x509.Certificate) -> str | None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        return f"{what}: expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_valid_before_utc:
        return (
            f"{what}: valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on,"
            f" and here it is {now:%Y-%m-%d %H:%M} UTC"
        )
    return None


def _other_name(what: str, certificate: x509.Certificate, address: str) -> str | None:
    names: set[str] = set()
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names |= set(found.get_values_for_type(x509.DNSName))
        names |= set(map(str, found.get_values_for_type(x509.IPAddress)))
    except x509.ExtensionNotFound:
        names |= {str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    with contextlib.suppress(ValueError):
        address = str(ipaddress.ip_address(address))
    return None if address in names else f"{what}: made for {', '.join(sorted(names)) or 'nobody'}"


def _presented(address: str, port: int) -> x509.Certificate | None:
    """The certificate the host shows, whoever signed it; None when it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is looked at, not trusted
    try:
        with (
            socket.create_connection((address, port), _TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=address) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    return x509.load_der_x509_certificate(der) if der else None
