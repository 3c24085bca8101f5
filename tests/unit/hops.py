"""Hops as processes of their own on loopback, with keys as the roll-out makes them."""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vclust_hop.service import listen
from vclust_py import pki
from vclust_py.chain import Hop, Keys
from vclust_py.chain.program import zipapp
from vclust_py.site import Site


@functools.cache
def shipped() -> str:
    """The program as the roll-out puts it on hosts; one file for this process."""
    folder = Path(tempfile.mkdtemp(prefix="vclust-hop-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "hop.pyz"
    path.write_bytes(zipapp())
    return str(path)


@dataclass(frozen=True)
class Trust:
    """One site's keys: the site manager's, and those of a host that is 127.0.0.1 and ::1."""

    head: Keys
    host: Keys
    """libvirt's."""
    ahead: timedelta = timedelta()
    ca: Path | None = None
    """What hops trust, where it is not the site's authority."""

    def hop(self, name: str) -> Keys:
        """A new key and certificate for the hop of a host of that name."""
        pki_folder = self.head.ca.parent
        folder = pki_folder.parents[1] / "hops"
        folder.mkdir(exist_ok=True)
        key, csr = requested()
        machine = pki.Machine(name, "127.0.0.1", hop_csr=csr)
        _, trust = pki.roll_out(Site(root=pki_folder.parent), machine, now=datetime.now(UTC) + self.ahead)
        stem = secrets.token_hex(8)
        (folder / f"{stem}-cert.pem").write_text(trust.hop_certificate)
        (folder / f"{stem}-key.pem").write_bytes(private(key))
        return Keys(self.ca or self.head.ca, folder / f"{stem}-cert.pem", folder / f"{stem}-key.pem")


def requested() -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A new key, and a signing request by it."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return key, csr.public_bytes(serialization.Encoding.PEM).decode()


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def made(folder: Path, ahead: timedelta = timedelta()) -> Trust:
    """`ahead`: by how much the clock was that they were made by."""
    folder.mkdir(exist_ok=True)
    site = Site(root=folder / "site")
    key, csr = requested()
    machine = pki.Machine("::1", "127.0.0.1", csr)
    _, trust = pki.roll_out(site, machine, now=datetime.now(UTC) + ahead)
    folder.joinpath("cert.pem").write_text(trust.certificate)
    folder.joinpath("key.pem").write_bytes(private(key))
    return Trust(
        Keys(site.pki / "cacert.pem", site.pki / "clientcert.pem", site.pki / "clientkey.pem"),
        Keys(site.pki / "cacert.pem", folder / "cert.pem", folder / "key.pem"),
        ahead,
    )


@dataclass
class Running:
    """A hop's process, and its folder."""

    hop: Hop
    folder: Path
    process: "subprocess.Popen[bytes]"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Hosts:
    """Starts hops."""

    folder: Path
    trust: Trust
    running: list[Running] = field(default_factory=list)
    python: str | Path = sys.executable

    def start(
        self,
        count: int,
        trust: Trust | None = None,
        address: str = "127.0.0.1",
        program: str = "",
        port: int = 0,
        name: str = "",
        options: Sequence[str] = (),
        keys: Keys | None = None,
    ) -> list[Running]:
        """`program`: instead of what hosts are shipped; `name`: of one host alone.

        `keys`: what it shows, where that is not a hop's certificate.
        """
        new = [
            self._start(trust or self.trust, address, program, port, name, options, keys)
            for _ in range(count)
        ]
        for host in new:
            wait_for(lambda host=host: answers(host.hop))
        return new

    def _start(
        self,
        trust: Trust,
        address: str,
        program: str,
        port: int,
        name: str,
        options: Sequence[str],
        keys: Keys | None,
    ) -> Running:
        folder = self.folder / f"host{len(self.running) + 1}"
        name = name or folder.name
        keys = keys or trust.hop(name)
        folder.mkdir(exist_ok=True)
        port = port or free_port(address)
        argv = [
            self.python, "-I", program or shipped(), "--listen", f"[{address}]:{port}", "--folder", str(folder),
            "--ca", str(keys.ca), "--certificate", str(keys.certificate), "--key", str(keys.key), *options,
        ]  # fmt: skip
        host = Running(Hop(name, address, port), folder, subprocess.Popen(argv))
        self.running.append(host)
        return host


def free_port(address: str) -> int:
    with listen(address, 0) as sock:
        return int(sock.getsockname()[1])


def answers(hop: Hop) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((hop.address, hop.port), 1):
        return True
    return False


def wait_for(true: Callable[[], bool], patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    if os.geteuid() != 0:
        pytest.skip("the site is root's")
    return made(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def hosts(tmp_path: Path, trust: Trust) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, trust)
    yield hosts
    for host in hosts.running:
        host.signal(signal.SIGCONT)
        host.end()
