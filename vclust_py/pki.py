"""Who may talk to whom in a site: its certificate authority, the site manager's key, its hosts' certificates.

All of it is made by the roll-out (playbooks/site.yml).  Private keys are made where they are used and stay there:
a host sends a signing request (CSR) and gets a certificate back.
"""

import contextlib
import ipaddress
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vclust_py.chain import DOMAIN, identity
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.image import sync
from vclust_py.site import Site

CLIENT = "vclust site manager"
"""The common name that hosts let in.  It is the whole subject: libvirt compares that as one text."""

_CA_YEARS = 10
_YEARS = 2
_RENEW = timedelta(days=60)
"""A certificate that ends sooner is issued again."""
_SKEW = timedelta(hours=1)
"""How far a host's clock may be behind."""
_COMMON_NAME = 64  # characters, X.520


@dataclass(frozen=True)
class Machine:
    """What a host shows of itself at the roll-out; texts are PEM, or empty where there is none.

    Its libvirt and its hop have a key and a certificate each, and neither can stand in for the other.
    """

    name: str
    address: str
    """Name or address in its libvirt URI."""
    csr: str = ""
    """libvirt's."""
    certificate: str = ""
    hop_csr: str = ""
    hop_certificate: str = ""


@dataclass(frozen=True)
class Trust:
    """What a host must be given; all of it public."""

    ca: str
    client: str
    """The site manager's subject, as libvirt compares it."""
    certificate: str = ""
    """libvirt's; empty where the host has shown no signing request for it."""
    hop_certificate: str = ""
    """The hop's; the same."""


def roll_out(
    site: Site, machine: Machine | None = None, *, check: bool = False, now: datetime | None = None
) -> tuple[Change, Trust]:
    """Make what the site lacks, and admit `machine`: its certificate.

    Raises VclustError on a signing request that is none, on a CA without its key, and on a host's name that only hops
    have.
    """
    now = now or datetime.now(UTC)
    with _held(site, check):
        store = _Store(site.pki, check)
        authority = _authority(store, now)
        _client(store, authority, now)
        certificate = hop = ""
        if machine is not None:
            for text in (machine.name, machine.address):
                if text.lower().rstrip(".").endswith(DOMAIN):
                    raise VclustError(f"{text}: names that end in {DOMAIN} are those of hops' certificates")
            names = _names(machine.name, machine.address)
            asked = (machine.csr, machine.certificate)
            certificate = _server(store, authority, machine.name, machine.name, names, *asked, now)
            own = identity(machine.name)
            asked = (machine.hop_csr, machine.hop_certificate)
            hop = _server(store, authority, f"{machine.name}, hop", own, _names(own), *asked, now)
        trust = Trust(_text(authority.certificate), f"CN={CLIENT}", certificate, hop)
    return Change(store.before, store.after), trust


@contextlib.contextmanager
def _held(site: Site, check: bool) -> Iterator[None]:
    """Hosts are rolled out side by side, and share these files."""
    if check:
        yield
        return
    with site.file_lock("pki"):
        site.pki.mkdir(mode=0o700, exist_ok=True)
        yield


class _Store:
    """The folder's files, and what has become of them."""

    def __init__(self, folder: Path, check: bool) -> None:
        self.folder = folder
        self.check = check
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}

    def read(self, name: str) -> str:
        """Empty when there is no such file."""
        try:
            return (self.folder / name).read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        if self.check:
            return
        draft = self.folder / f"{name}.tmp"
        draft.unlink(missing_ok=True)
        draft.touch(mode=mode)
        draft.chmod(mode)
        draft.write_text(text, encoding="ascii")
        sync(draft)
        draft.rename(self.folder / name)
        sync(self.folder)

    def say(self, name: str, before: str, after: str) -> None:
        """Nothing that is said here may be secret."""
        self.before[name], self.after[name] = before, after


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _authority(store: _Store, now: datetime) -> _Authority:
    old = _certificate(store.read("cacert.pem"))
    key = _key(store.read("cakey.pem"))
    if old is not None and key is None:
        raise VclustError(
            f"{store.folder}/cakey.pem: missing, or not a key",
            f"put it back; or, for a new authority, remove {store.folder} and roll out all hosts of the site again",
        )
    why = "" if old is None else _end(old, now)
    if old is not None and key is not None and old.public_key() != key.public_key():
        why = "its key is another's"  # a renewal was interrupted
    if old is not None and key is not None and not why:
        store.say("authority", _summary(old), _summary(old))
        return _Authority(old, key)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vclust site {secrets.token_hex(4)}")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    new = (
        _builder(name, name, key.public_key(), key.public_key(), now, _CA_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    store.write("cakey.pem", _private(key), 0o600)
    store.write("cacert.pem", _text(new))
    store.say("authority", _refused(old, why), _summary(new))
    return _Authority(new, key)


def _client(store: _Store, authority: _Authority, now: datetime) -> None:
    old, key = _certificate(store.read("clientcert.pem")), _key(store.read("clientkey.pem"))
    why = _flaw(old, authority, now)
    if old is not None and (key is None or old.public_key() != key.public_key()):
        why = "its key is another's"
    if old is not None and not why:
        store.say("site manager", _summary(old), _summary(old))
        return
    key = ec.generate_private_key(ec.SECP256R1())
    new = _issue(authority, CLIENT, key.public_key(), ExtendedKeyUsageOID.CLIENT_AUTH, (), now)
    store.write("clientkey.pem", _private(key), 0o600)
    store.write("clientcert.pem", _text(new))
    store.say("site manager", _refused(old, why), _summary(new))


def _server(
    store: _Store,
    authority: _Authority,
    what: str,
    subject: str,
    names: tuple[x509.GeneralName, ...],
    csr: str,
    certificate: str,
    now: datetime,
) -> str:
    """A certificate for whoever asks by `csr`; `what` is its name in differences and errors."""
    if not csr:
        # Check mode: the host would make its key first.
        store.say(what, "", "a certificate")
        return ""
    try:
        request = x509.load_pem_x509_csr(csr.encode())
    except ValueError as error:
        raise VclustError(f"{what}: not a signing request: {error}") from error
    if not request.is_signature_valid:
        raise VclustError(f"{what}: its signing request is not signed by its own key")
    old = _certificate(certificate)
    why = _flaw(old, authority, now)
    if old is not None and not why and old.public_key() != request.public_key():
        why = "its key is another's"
    if old is not None and not why and _names_of(old) != set(names):
        why = "the host's name or address is another now"
    if old is not None and not why:
        store.say(what, _summary(old), _summary(old))
        return _text(old)
    new = _issue(authority, subject, request.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, names, now)
    store.say(what, _refused(old, why), _summary(new))
    return _text(new)


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


def _issue(
    authority: _Authority,
    name: str,
    key: CertificatePublicKeyTypes,
    purpose: x509.ObjectIdentifier,
    names: tuple[x509.GeneralName, ...],
    now: datetime,
) -> x509.Certificate:
    # The subject is ours to choose: a host that asks for the site manager's does not get it.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME])])
    ca = authority.certificate
    # libvirt 9 wants key encipherment even of a key that cannot do it, though not when it is not critical.
    usage = _usage(digital_signature=True, key_encipherment=True)
    builder = (
        _builder(subject, ca.subject, key, authority.key.public_key(), now, _YEARS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def _usage(**usages: bool) -> x509.KeyUsage:
    known = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: usages.get(name, False) for name in known})


def _names(*texts: str) -> tuple[x509.GeneralName, ...]:
    """Names and addresses, each once."""
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys(texts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            if not text.isascii():
                raise VclustError(f"{text}: expected an address, or a name of ASCII characters") from None
            names.append(x509.DNSName(text))
    return tuple(names)


def _names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    with contextlib.suppress(x509.ExtensionNotFound):
        return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return set()


def _flaw(certificate: x509.Certificate | None, authority: _Authority, now: datetime) -> str:
    """Why the certificate must be issued again; empty when it need not, or when there is none."""
    if certificate is None:
        return ""
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return "of another authority"
    return _end(certificate, now)


def _end(certificate: x509.Certificate, now: datetime) -> str:
    return f"less than {_RENEW.days} days left" if certificate.not_valid_after_utc - now < _RENEW else ""


def _refused(old: x509.Certificate | None, why: str) -> str:
    return "" if old is None else f"{_summary(old)}: {why}"


def _summary(certificate: x509.Certificate) -> str:
    names = ", ".join(sorted(str(name.value) for name in _names_of(certificate)))
    return (
        f"{certificate.subject.rfc4514_string()}{f' ({names})' if names else ''}"
        f" until {certificate.not_valid_after_utc:%Y-%m-%d}"
    )


def _certificate(text: str) -> x509.Certificate | None:
    """None when there is none, or what there is is none: it is made anew then."""
    with contextlib.suppress(ValueError):
        return x509.load_pem_x509_certificate(text.encode())
    return None


def _key(text: str) -> ec.EllipticCurvePrivateKey | None:
    with contextlib.suppress(ValueError):
        key = serialization.load_pem_private_key(text.encode(), None)
        return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return None


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
