"""The kinds of host: Debian under emulation, differing in hypervisor, processor, suite and packages."""

from dataclasses import dataclass, replace

from shared.debian import BOOKWORM, TRIXIE

_EMULATED = (
    # The machine.
    *("busybox-static", "ca-certificates", "dbus", "e2fsprogs", "iproute2", "iputils-ping", "kmod", "less"),
    *("linux-image-amd64", "netbase", "openssh-server", "procps", "python3", "python3-apt", "sudo"),
    *("systemd-sysv", "udev"),
    # What the roll-out installs on every host; hosts have no way to the internet.
    *("iptables", "libvirt-clients", "libvirt-daemon-system", "nftables", "openssl", "qemu-utils", "zstd"),
)


@dataclass(frozen=True)
class Image:
    """What is in the image that hosts of one or several kinds boot."""

    name: str
    packages: tuple[str, ...]

    modules: tuple[str, ...] = ()
    """Kernel modules loaded at boot: those that a host would load by itself if `_trim` had left udev all its work."""

    suite: str = BOOKWORM

    @property
    def xen(self) -> bool:
        """Whether it holds the hypervisor."""
        return "xen-system-amd64" in self.packages


_XEN = Image(
    "xen",
    (
        *_EMULATED,
        "grub2-common",
        "libvirt-daemon-driver-xen",
        "qemu-system-xen",
        "xen-system-amd64",
        "xenstore-utils",
    ),
)
_BUILDER = ("bubblewrap", "fuse3", "mmdebstrap", "python3-libvirt", "python3-seccomp")
"""For a host that is a site manager and builds base images and VD caches (`tests/system/test_upkeep.py`)."""
_KVM = Image("kvm", (*_EMULATED, "libvirt-daemon-driver-qemu", "qemu-system-x86", *_BUILDER), ("kvm_amd",))
_TRIXIE = replace(_KVM, name="trixie", suite=TRIXIE)


@dataclass(frozen=True)
class Kind:
    name: str
    about: str
    image: Image

    first: int
    """Host N has the address 10.77.0.(`first` + N)."""

    uri: str
    """Of its libvirt, once the roll-out has been there; {host} is the host's address."""

    local_uri: str
    """Of its libvirt, for root on the host."""

    processor: str = "qemu64,+svm,+npt"
    """As QEMU's -cpu takes it.  This is the smallest one that Xen can run PVH guests on."""

    processors: int = 1

    boots_xen: bool = False


MOST = 19
"""Hosts of a kind."""

MEMORY = 2048
"""MiB of a host, Xen's dom0 included."""

DOM0_MEMORY = 384
"""MiB of dom0; 170 of them are available while two guests run."""

XEN = Kind(
    *("xen", "Debian with real Xen, on an emulated processor", _XEN, 10),
    *("xen+tls://{host}/system", "xen:///system"),
    boots_xen=True,
)
PLAIN = Kind(
    *("plain", "the same, started without Xen: a roll-out asks for a restart", _XEN, 30),
    *("xen+tls://{host}/system", "test:///default"),
)
KVM = Kind(
    *("kvm", "Debian with systemd and real KVM, on an emulated processor", _KVM, 50),
    *("qemu+tls://{host}/system", "qemu:///system"),
    # All that the emulation can do, SVM with nested paging included, but for two features that make KVM slow here.
    processor="max,la57=off,pcid=off",
    processors=2,
)
DEBIAN_13 = replace(
    KVM, name="trixie", about="the same as kvm, with Debian 13 in place of 12", image=_TRIXIE, first=70
)
KINDS = {kind.name: kind for kind in (KVM, XEN, PLAIN, DEBIAN_13)}
