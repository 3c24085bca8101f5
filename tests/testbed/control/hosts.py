"""Many hosts whose machines are books only: real libvirtds, one a host, that serve libvirt's test driver over TLS.

A site manager says to them all that it says to others: TLS with the site's certificates, libvirt's protocol,
definitions that libvirt reads and checks.  But nothing runs: the driver keeps domains, networks and storage pools in
the daemon's memory.
"""

import contextlib
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
from hops import private, requested

from vclust_py import pki
from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT
from vclust_py.site import Site

_NETWORK = ipaddress.IPv4Network("127.1.0.0/16")
_PORT = 16514
_START = 60.0
"""Seconds that all daemons together may take until they listen."""
_INSIDE = "VCLUST_TEST_ISOLATED"

_CLUSTER_POOL = re.compile(r"vclust-.+\.[0-9]+")
"""A pool of a cluster's files: of its folder's name.  Other pools a host has once for all clusters."""


@dataclass(frozen=True)
class ControlHost:
    """A host, and a connection to it that stays: with the last one the test driver forgets everything."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    keeper: Any

    @property
    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def running(self) -> int:
        """Domains that run, as the host itself has it."""
        return int(self.keeper.numOfDomains())

    def left(self) -> list[str]:
        """Names of domains, cluster networks and cluster pools."""
        found = [domain.name() for domain in self.keeper.listAllDomains()]
        found += [network.name() for network in self.keeper.listAllNetworks() if network.name() != "default"]
        pools = [pool.name() for pool in self.keeper.listAllStoragePools()]
        return found + [name for name in pools if _CLUSTER_POOL.fullmatch(name)]

    def hold_images(self, images: Mapping[str, int]) -> None:
        """The host has these image files, name → bytes, as if it had been sent them."""
        pool = self.keeper.storagePoolCreateXML(
            f"<pool type='dir'><name>vclust-images</name><target><path>{HOST_ROOT}/images</path></target></pool>"
        )
        for name, size in images.items():
            pool.createXML(
                f"<volume><name>{name}</name><capacity unit='bytes'>{size}</capacity>"
                "<allocation>0</allocation></volume>"
            )


def isolate() -> None:
    """Run this program again in network and mount namespaces of its own: no address or device of it is outside."""
    if os.environ.get(_INSIDE) != str(os.getpid()):
        # unshare(1) and the shell replace this process, so its number stays.
        os.environ[_INSIDE] = str(os.getpid())
        inside = "ip link set lo up && mount -t sysfs sysfs /sys && mkdir -p /run/netns &&"
        inside += ' mount -t tmpfs tmpfs /run/netns && exec "$@"'
        argv = ["unshare", "--net", "--mount", "sh", "-c", inside, "sh", sys.executable, *sys.argv]
        os.execvp(argv[0], argv)  # noqa: S606


@contextlib.contextmanager
def hosts(site: Site, folder: Path, count: int) -> Iterator[list[ControlHost]]:
    """Hosts `h1` to `h<count>` of the site, which gets an authority; the folder is for their files."""
    started: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
    keepers: list[Any] = []
    try:
        for number in range(1, count + 1):
            name, address = f"h{number}", str(_NETWORK[number])
            started[name] = address, _start(site, folder / name, name, address)
        for address, _ in started.values():
            _wait(address)
            keepers.append(libvirt.open(f"test+tls://{address}/default?pkipath={site.pki}"))
        yield [
            ControlHost(name, address, process, keeper)
            for (name, (address, process)), keeper in zip(started.items(), keepers, strict=True)
        ]
    finally:
        for keeper in keepers:
            keeper.close()
        for _, process in started.values():
            process.send_signal(signal.SIGTERM)
        for _, process in started.values():
            process.wait()


def _start(site: Site, folder: Path, name: str, address: str) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    key, csr = requested()
    _, trust = pki.roll_out(site, pki.Machine(name, address, csr))
    (folder / "key.pem").write_bytes(private(key))
    (folder / "cert.pem").write_text(trust.certificate)
    settings = {
        "listen_addr": address,
        "unix_sock_dir": str(folder),
        "key_file": str(folder / "key.pem"),
        "cert_file": str(folder / "cert.pem"),
        "ca_file": str(site.pki / "cacert.pem"),
        "auth_unix_rw": "none",
        "log_outputs": f"3:file:{folder}/log",
    }
    lines = [f'{setting} = "{value}"\n' for setting, value in settings.items()]
    lines.append(f'tls_allowed_dn_list = ["{trust.client}"]\n')
    (folder / "libvirtd.conf").write_text("".join(lines))
    # Without drivers of machines it is small, and leaves this machine alone; the test driver is no module.
    return subprocess.Popen(
        ["libvirtd", "--config", folder / "libvirtd.conf", "--listen", "--pid-file", folder / "pid"],
        env={**os.environ, "LIBVIRT_DRIVER_DIR": str(folder)},
        stderr=subprocess.DEVNULL,
    )


def _wait(address: str) -> None:
    deadline = time.monotonic() + _START
    while True:
        try:
            socket.create_connection((address, _PORT), 1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise VclustError(f"{address}: its libvirtd does not listen after {_START:g} s") from error
        time.sleep(0.05)
