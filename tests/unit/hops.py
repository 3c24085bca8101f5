"""Hops as processes of their own on loopback, with keys as the roll-out makes them."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vclust_py import pki
from vclust_py.chain import Hop, Keys
from vclust_py.chain import hop as service
from vclust_py.site import Site


@dataclass(frozen=True)
class Trust:
    """One site's keys: the site manager's, and those of a host that is 127.0.0.1 and ::1."""

    head: Keys
    host: Keys


def made(folder: Path, ahead: timedelta = timedelta()) -> Trust:
    """`ahead`: by how much the clock was that they were made by."""
    folder.mkdir(exist_ok=True)
    site = Site(root=folder / "site")
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    machine = pki.Machine("::1", "127.0.0.1", csr.public_bytes(serialization.Encoding.PEM).decode())
    _, trust = pki.roll_out(site, machine, now=datetime.now(UTC) + ahead)
    folder.joinpath("cert.pem").write_text(trust.certificate)
    folder.joinpath("key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Trust(
        Keys(site.pki / "cacert.pem", site.pki / "clientcert.pem", site.pki / "clientkey.pem"),
        Keys(site.pki / "cacert.pem", folder / "cert.pem", folder / "key.pem"),
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

    def start(
        self,
        count: int,
        trust: Trust | None = None,
        address: str = "127.0.0.1",
        program: str = service.__file__,
        port: int = 0,
    ) -> list[Running]:
        new = [self._start(trust or self.trust, address, program, port) for _ in range(count)]
        for host in new:
            wait_for(lambda host=host: answers(host.hop))
        return new

    def _start(self, trust: Trust, address: str, program: str, port: int) -> Running:
        name = f"host{len(self.running) + 1}"
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        port = port or free_port(address)
        argv = [
            sys.executable, program, "--listen", f"[{address}]:{port}", "--folder", str(folder),
            "--ca", str(trust.host.ca), "--certificate", str(trust.host.certificate), "--key", str(trust.host.key),
        ]  # fmt: skip
        host = Running(Hop(name, address, port), folder, subprocess.Popen(argv))
        self.running.append(host)
        return host


def free_port(address: str) -> int:
    with service.listen(address, 0) as sock:
        return int(sock.getsockname()[1])


def answers(hop: Hop) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((hop.address, hop.port), 1):
        return True
    return False


def wait_for(true: Callable[[], bool], patience: float = 10.0) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
