"""The X.509 of a site: its authority, what it issues and what it revokes; pure functions, no files."""

import contextlib
import hashlib
import ipaddress
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes
from cryptography.x509 import Certificate
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vclust_py.errors import VclustError

RENEW = timedelta(days=60)
"""A certificate that ends sooner is issued again."""
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
"""What a certificate is for."""

_CA_YEARS = 10
_YEARS = 2
_SKEW = timedelta(hours=1)
"""How far a host's clock may be behind."""
_COMMON_NAME = 64  # characters, X.520

Names = tuple[x509.GeneralName, ...]


@dataclass(frozen=True)
class Authority:
    """What signs; `certificate` is its own."""

    certificate: Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def name(self) -> str:
        return self.certificate.subject.rfc4514_string()


def new_authority(now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own: certificates and revocation lists find their authority by it.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vclust site {secrets.token_hex(4)}")])
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), now, _CA_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority,
    name: str,
    key: CertificatePublicKeyTypes,
    purpose: x509.ObjectIdentifier,
    names: Names,
    now: datetime,
) -> Certificate:
    """A certificate of subject `name` for `purpose`, good for `names` where it is a server's."""
    # The subject is ours to choose: a host that asks for the site manager's does not get it.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME])])
    # libvirt 9 wants key encipherment even of a key that cannot do it, though not when it is not critical.
    usage = _usage(digital_signature=True, key_encipherment=True)
    builder = (
        _builder(subject, authority.certificate.subject, key, authority.key.public_key(), now, _YEARS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def revocation_list(authority: Authority, serials: Iterable[int], now: datetime) -> str:
    """The authority's list of certificates that count no more (RFC 5280, section 5), PEM.

    It is good for as long as the authority: who checks it has no way to a newer one than the file it was given.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _SKEW)
        .next_update(authority.certificate.not_valid_after_utc)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
    )
    for serial in sorted(serials):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _SKEW)
        builder = builder.add_revoked_certificate(entry.build())
    made = builder.sign(authority.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode("ascii")


def revoked(text: str) -> dict[str, set[int]]:
    """By authority the serial numbers of all revocation lists in `text`, PEM; what is no list is none."""
    found: dict[str, set[int]] = {}
    for part in text.split("-----BEGIN X509 CRL-----")[1:]:
        with contextlib.suppress(ValueError):
            made = x509.load_pem_x509_crl(f"-----BEGIN X509 CRL-----{part}".encode())
            found[made.issuer.rfc4514_string()] = {entry.serial_number for entry in made}
    return found


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    years: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=365 * years))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(**usages: bool) -> x509.KeyUsage:
    known = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: usages.get(name, False) for name in known})


def names(*texts: str) -> Names:
    """Names and addresses, each once.  Raises VclustError on a name that is not ASCII."""
    found: list[x509.GeneralName] = []
    for text in dict.fromkeys(texts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            if not text.isascii():
                raise VclustError(f"{text}: expected an address, or a name of ASCII characters") from None
            found.append(x509.DNSName(text))
    return tuple(found)


def names_of(certificate: Certificate) -> set[x509.GeneralName]:
    with contextlib.suppress(x509.ExtensionNotFound):
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return set()


def is_issued_by(certificate: Certificate, authority: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def ends_soon(certificate: Certificate, now: datetime) -> str:
    """Why it must be issued again; empty when there is time."""
    return f"less than {RENEW.days} days left" if certificate.not_valid_after_utc - now < RENEW else ""


def flaw(certificate: Certificate | None, authorities: Collection[Certificate], now: datetime) -> str:
    """Why the certificate must be issued again; empty when it need not, or when there is none."""
    if certificate is None:
        return ""
    if not any(is_issued_by(certificate, authority) for authority in authorities):
        return "of another authority"
    return ends_soon(certificate, now)


def key_digest(key: PublicKeyTypes) -> str:
    """sha256 of a public key, whatever certificate it is in."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def summary(certificate: Certificate) -> str:
    """A certificate for people."""
    found = ", ".join(sorted(str(name.value) for name in names_of(certificate)))
    return (
        f"{certificate.subject.rfc4514_string()}{f' ({found})' if found else ''}"
        f" until {certificate.not_valid_after_utc:%Y-%m-%d}"
    )


def request(text: str, what: str) -> x509.CertificateSigningRequest:
    """The signing request in PEM.  Raises VclustError naming `what` when it is none, or not signed by its own key."""
    try:
        found = x509.load_pem_x509_csr(text.encode())
    except ValueError as error:
        raise VclustError(f"{what}: not a signing request: {error}") from error
    if not found.is_signature_valid:
        raise VclustError(f"{what}: its signing request is not signed by its own key")
    return found


def certificates(text: str) -> list[Certificate]:
    """Those in PEM `text`; none when there is none, or what there is is none: it is made anew then."""
    with contextlib.suppress(ValueError):
        return x509.load_pem_x509_certificates(text.encode())
    return []


def private_key(text: str) -> ec.EllipticCurvePrivateKey | None:
    with contextlib.suppress(ValueError):
        key = serialization.load_pem_private_key(text.encode(), None)
        return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return None


def pem(*certificates: Certificate) -> str:
    return "".join(
        certificate.public_bytes(serialization.Encoding.PEM).decode("ascii") for certificate in certificates
    )


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
