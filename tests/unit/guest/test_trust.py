"""Keys and certificates, read by ssh-keygen; that sshd and ssh refuse what they must is in tests/system."""

import base64
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity
from guest.disks import an_earlier_authority, certificate, fingerprint

from vclust_py.guest.trust import Authority, KeyPair, kept_key

AUTHORITY = Authority()


def shown(key: KeyPair, folder: Path) -> dict[str, str]:
    (folder / "key-cert.pub").write_text(f"{key.certificate}\n")
    return certificate(folder / "key-cert.pub")


def test_a_nodes_certificate_names_the_node_alone(tmp_path: Path) -> None:
    found = shown(AUTHORITY.new_host_key("n1", IPv4Address("10.1.2.1")), tmp_path)
    assert found["Type"].endswith(" host certificate")
    assert found["Principals"] == "n1 10.1.2.1"
    assert found["Extensions"] == "(none)"
    assert fingerprint(AUTHORITY.key.public, tmp_path) in found["Signing CA"]


def test_a_users_certificate_names_the_user_alone(tmp_path: Path) -> None:
    found = shown(AUTHORITY.new_user_key("alice"), tmp_path)
    assert found["Type"].endswith(" user certificate")
    assert found["Principals"] == "alice"
    assert "permit-pty" in found["Extensions"].split()


def test_certificates_are_good_from_yesterday_for_ever(tmp_path: Path) -> None:
    found = shown(AUTHORITY.new_user_key("alice"), tmp_path)
    assert found["Valid"].startswith("after ")
    assert "to " not in found["Valid"]


def test_the_private_key_is_the_certified_one(tmp_path: Path) -> None:
    key = AUTHORITY.new_user_key("alice")
    private = tmp_path / "key"
    private.touch(mode=0o600)
    private.write_text(key.private)
    command = ["ssh-keygen", "-y", "-P", "", "-f", private]
    public = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[:2]
    assert " ".join(public) == key.public
    assert fingerprint(key.public, tmp_path) in shown(key, tmp_path)["Public key"]


def test_the_authority_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    authority = an_earlier_authority()
    assert authority.known_hosts.startswith("@cert-authority * ssh-ed25519 ")
    assert authority.key == kept_key(authority.key.private)
    key = authority.new_host_key("n2", IPv4Address("10.1.2.2"))
    assert (key.kind, AUTHORITY.key.kind) == ("ed25519", "ecdsa")
    assert fingerprint(authority.key.public, tmp_path) in shown(key, tmp_path)["Signing CA"]


def test_each_cluster_has_an_authority_of_its_own(tmp_path: Path) -> None:
    other = Authority()
    assert other.known_hosts != AUTHORITY.known_hosts
    signer = shown(other.new_user_key("alice"), tmp_path)["Signing CA"]
    assert fingerprint(other.key.public, tmp_path) in signer
    assert fingerprint(AUTHORITY.key.public, tmp_path) not in signer


def test_a_changed_certificate_is_none() -> None:
    line = AUTHORITY.new_user_key("alice").certificate
    verify(line)
    kind, data = line.split()
    changed = base64.b64encode(base64.b64decode(data).replace(b"alice", b"roots")).decode()
    with pytest.raises(InvalidSignature):
        verify(f"{kind} {changed}")


def verify(line: str) -> None:
    identity = load_ssh_public_identity(line.encode())
    assert isinstance(identity, SSHCertificate)
    identity.verify_cert_signature()
