"""Certificates of a site for the hosts of a bed, made as the roll-out makes them."""

from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chain.host import Host
from vclust_py import pki
from vclust_py.site import Site


def make(root: Path, hosts: Iterable[Host]) -> Path:
    """The folder with the site's CA and the head's keys; a host's own are in its folder: cert.pem, key.pem, ca.pem."""
    site = Site(root=root)
    site.make_directories()
    pki.roll_out(site)
    for host in hosts:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host.name)])
        csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        asked = csr.public_bytes(serialization.Encoding.PEM).decode()
        machine = pki.Machine(host.name, host.address, hop_csr=asked)
        _, trust = pki.roll_out(site, machine)
        (host.folder / "cert.pem").write_text(trust.hop_certificate)
        (host.folder / "ca.pem").write_text(trust.ca)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (host.folder / "key.pem").write_bytes(private)
    return site.pki
