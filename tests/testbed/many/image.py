"""The root that all hosts share: Debian without systemd, installed and nothing of vclust configured."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from shared import debian

_PACKAGES = (
    # The machine.
    *("ca-certificates", "iproute2", "iputils-ping", "less", "netbase", "openssh-server", "procps"),
    *("python3", "python3-apt", "sudo", "tini"),
    # What the roll-out installs; hosts have no way to the internet.
    *("iptables", "libvirt-clients", "libvirt-daemon-system", "libvirt-daemon-system-sysv", "nftables"),
    *("libvirt-daemon-driver-qemu", "openssl", "qemu-system-x86", "qemu-utils", "zstd"),
)

_REMOVED = (
    # Every host would make the same bridge with a DHCP server.
    "etc/libvirt/qemu/networks/autostart/*",
    # Starts what libvirt had running at a shutdown; hosts are never shut down.
    "etc/rc?.d/S*libvirt-guests",
    # Of logrotate; nobody is there long enough to need it.
    "etc/rc?.d/S*cron",
)

_SSHD = """\
# PAM and the client's name cost more than the rest of a login; many may log in at once.
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
MaxStartups 200
MaxSessions 200
"""

_LIBVIRTD = """\
# All hosts see the one machine's serial number.
host_uuid_source = "machine-id"
"""


def ensure(used: Callable[[], Collection[str]], report: Callable[[str], None]) -> Path:
    """The root's folder.  `used` names those in IMAGES that hosts stand on."""

    def build(work: Path, result: Path) -> None:
        report(f"building the hosts' root: {len(_PACKAGES)} packages and what they need")
        root = work / "root"
        debian.install(debian.BOOKWORM, _PACKAGES, work, root)
        debian.remove(root, _REMOVED)
        (root / "etc/ssh/sshd_config.d/testbed.conf").write_text(_SSHD, encoding="ascii")
        with open(root / "etc/libvirt/libvirtd.conf", "a", encoding="ascii") as file:
            file.write(_LIBVIRTD)
        shutil.move(root, result / "root")

    return debian.kept("many", debian.BOOKWORM, _PACKAGES, [Path(__file__)], used, build) / "root"
