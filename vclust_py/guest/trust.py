"""Who trusts whom in a cluster: one authority, whose certificates make lists of keys needless.

The authority is a key of the cluster's, made and kept on the site manager for root alone: a node never sees it.  One
key serves hosts and users, since a certificate says which of the two it is for, OpenSSH checks that, and both would be
kept in the same place.

A host certificate is good for one node's name and address, a user certificate for one account's name.

Keys are of ECDSA on the curve P-256, which OpenSSH leaves to OpenSSL: with ed25519, for which it has slower code of its
own, a login costs two emulated nodes 1.05 CPU seconds in place of 0.65.  A cluster of an earlier version has ed25519
keys, and gets such ones: its nodes know the files by their names.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
)

_CLOCK_SKEW = 86400
"""Seconds before its making from which a certificate is good: a node's clock is its host's, which may be late."""
_Key = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
_FOREVER = 2**64 - 1
"""OpenSSH's word for it.  Certificates end with the cluster: its authority is trusted by its own nodes only, and
nothing would renew them in a node that is out of reach."""
_USER_RIGHTS = (
    b"permit-X11-forwarding",
    b"permit-agent-forwarding",
    b"permit-port-forwarding",
    b"permit-pty",
    b"permit-user-rc",
)
"""What a login by key may do: without them a certificate gives no terminal."""


@dataclass(frozen=True)
class KeyPair:
    """A key: OpenSSH's private file, and type and data of the public line (no comment).

    `certificate`: the line of the authority's certificate for it; empty where there is none.
    """

    private: str
    public: str
    certificate: str = ""

    @property
    def kind(self) -> str:
        """`ecdsa` or `ed25519`, as OpenSSH names the files of its keys."""
        return "ed25519" if self.public.startswith("ssh-ed25519 ") else "ecdsa"


class Authority:
    """A cluster's authority; `key` is what is kept of it."""

    def __init__(self, private: str | None = None) -> None:
        """A new one, or the one with that private key as it was kept."""
        self._signing_key = _new() if private is None else _loaded(private)
        self.key = _pair(self._signing_key)
        if private is not None:
            self.key = replace(self.key, private=private)

    @property
    def known_hosts(self) -> str:
        """The line for ssh_known_hosts(5).

        For all names: only nodes of this cluster have such a certificate, and it says which name is whose.
        """
        return f"@cert-authority * {self.key.public}\n"

    def new_host_key(self, name: str, address: IPv4Address) -> KeyPair:
        return self._certified(SSHCertificateType.HOST, name, (name, str(address)))

    def new_user_key(self, user: str) -> KeyPair:
        return self._certified(SSHCertificateType.USER, user, (user,), _USER_RIGHTS)

    def _certified(
        self, kind: SSHCertificateType, key_id: str, principals: Sequence[str], rights: Sequence[bytes] = ()
    ) -> KeyPair:
        key = _new(self.key.kind)
        builder = (
            SSHCertificateBuilder()
            .public_key(key.public_key())
            .type(kind)
            .key_id(key_id.encode("ascii"))
            .valid_principals([principal.encode("ascii") for principal in principals])
            .valid_after(int(time.time()) - _CLOCK_SKEW)
            .valid_before(_FOREVER)
        )
        for right in rights:
            builder = builder.add_extension(right, b"")
        certificate = builder.sign(self._signing_key).public_bytes().decode("ascii")
        return _pair(key, certificate)


def new_key() -> KeyPair:
    return _pair(_new())


def kept_key(private: str, certificate: str = "") -> KeyPair:
    """The pair of a private key as it was kept."""
    # The same text: OpenSSH's form of a key has a random number, and would differ each time.
    return replace(_pair(_loaded(private), certificate), private=private)


def _new(kind: str = "ecdsa") -> _Key:
    return Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def _loaded(private: str) -> _Key:
    key = load_ssh_private_key(private.encode("ascii"), password=None)
    assert isinstance(key, _Key)  # noqa: S101 - there are no others here
    return key


def _pair(key: _Key, certificate: str = "") -> KeyPair:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return KeyPair(private.decode("ascii"), public.decode("ascii"), certificate)
