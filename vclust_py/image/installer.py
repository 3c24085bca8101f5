"""The installer: a small initramfs that makes a node out of its disks; and how a kernel is to be started with it.

`guest/init` is its only program besides busybox; it says what the installer does.  `guest/identity` is its part that
clones of a template share.
"""

import lzma
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.run import run

GUEST = Path(__file__).with_name("guest")

MACHINE = "pc"
"""QEMU's machine: i440fx starts in less time than q35."""

EMULATED_CPU_WITHOUT = ("la57", "pcid", "erms", "fsrm")
"""CPU features to switch off when QEMU emulates, of the model `max`: what helps a real processor costs an emulated
one. Fifth level of page tables, TLB tags, and string instructions that kernel and libc would use for every copy."""

TB_CACHE = 128
"""MiB for QEMU's translated code; without a limit it takes up to 1 GB.  When it is full all is translated anew: 64 MiB
are full while a Debian 13 boots, which costs it 2 s, and before a clone is proven, which costs it a fifth."""

_CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}

# A FAT file system names characters by two tables, which nothing asks for by dependency.
_FAT = ("vfat", "nls_cp437", "nls_ascii")
# Drivers of a node's disks and network, and what reads its two small disks; `button` is the host's orderly power-off.
_MODULES = {
    "virtio": ("virtio_pci", "virtio_blk", "virtio_net", *_FAT, "button"),
    "xen": ("xen-blkfront", "xen-netfront", *_FAT),
}

# What guest/init calls.  Links to the one busybox: an applet list that is too short fails at once, in the tests.
APPLETS = (
    *(
        "awk",
        "cat",
        "chown",
        "chroot",
        "cp",
        "date",
        "echo",
        "findfs",
        "grep",
        "insmod",
        "ip",
        "mkdir",
        "mount",
        "mv",
        "od",
        "poweroff",
        "rmdir",
    ),
    *("sh", "sleep", "switch_root", "sync", "tail", "tar", "tr", "umount", "usleep"),
)


def command_line(architecture: str = "amd64", accelerator: str = "tcg", wait: int = 10) -> str:
    """The kernel's command line; `accelerator` as in `hypervisor.Capacity`: a Xen guest's console is hvc0.

    `wait`: seconds after which the installer gives up on a disk or network card that does not come.
    """
    words = [
        f"console={'hvc0' if accelerator == 'xen' else _CONSOLES[architecture]}",
        # Interfaces keep the kernel's names: the installer has set eth0 up before udev starts.
        "net.ifnames=0",
        # A serial line takes as long as it takes; the journal has it all.
        "quiet",
        "systemd.show_status=false",
        "systemd.log_level=notice",
        # A node that cannot go on stops, and its host sees it.
        "panic=-1",
        f"vclust.wait={wait}",
    ]
    if accelerator == "tcg":
        # They guard against what processors do ahead of time; an emulated one does nothing of the kind.
        words.append("mitigations=off")
        # QEMU keeps translated code by its address: with random ones it translates each program anew for each process.
        words.append("norandmaps")
        # Tests of ciphers, and of the clock as a source of randomness that the kernel's own generator does not use: a
        # third of what Debian 13's kernel needs to start.
        words += ["cryptomgr.notests", "initcall_blacklist=jent_mod_init"]
    return " ".join(words)


SUSPEND = "vclust.suspend"
"""On the kernel's command line: the installer waits before it looks at any disk."""


def build(root: Path, target: Path) -> None:
    """Write the initramfs for the kernel of the base image's `root`.

    Uncompressed, modules too (Debian 13's are packed with xz): unpacking would take an emulated node longer.
    """
    versions = sorted(path.name for path in (root / "usr/lib/modules").iterdir())
    if len(versions) != 1:
        raise VclustError(f"base image: expected one kernel, found {', '.join(versions) or 'none'}")
    modules = root / "usr/lib/modules" / versions[0]
    known = module_dependencies((modules / "modules.dep").read_text(encoding="ascii"))
    files: dict[str, bytes] = {
        "init": (GUEST / "init").read_bytes(),
        "identity": (GUEST / "identity").read_bytes(),
        "bin/busybox": (root / "usr/bin/busybox").read_bytes(),
    }
    for bus, names in _MODULES.items():
        order = load_order(known, names)
        names_of_files = [Path(path).name.removesuffix(".xz") for path in order]
        files[f"modules/{bus}.order"] = "".join(f"{name}\n" for name in names_of_files).encode()
        for name, path in zip(names_of_files, order, strict=True):
            module = (modules / path).read_bytes()
            files[f"modules/{name}"] = lzma.decompress(module) if path.endswith(".xz") else module
    links = {f"bin/{applet}": "busybox" for applet in APPLETS}
    folders = ("bin", "dev", "modules", "proc", "root", "sys")
    with open(target, "wb") as archive:
        for piece in _newc(folders, files, links):
            archive.write(piece)


def module_dependencies(text: str) -> dict[str, list[str]]:
    """modules.dep(5): path of each module, and the paths of what must be loaded before it, last first."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {path: needs.split() for path, _, needs in pairs}


def load_order(known: dict[str, list[str]], names: Iterable[str]) -> list[str]:
    """Paths of the modules `names` and of all they need, in an order in which insmod can load them.

    A name the kernel has no module for is built into it.
    """
    paths = {re.sub(r"\.ko(\..*)?$", "", Path(path).name).replace("_", "-"): path for path in known}
    order: list[str] = []

    def add(path: str) -> None:
        for needed in reversed(known[path]):
            add(needed)
        if path not in order:
            order.append(path)

    for name in names:
        path = paths.get(name.replace("_", "-"))
        if path is not None:
            add(path)
    return order


def _newc(folders: Iterable[str], files: dict[str, bytes], links: dict[str, str]) -> Iterator[bytes]:
    """A cpio archive of format newc (Linux: Documentation/driver-api/early-userspace/buffer-format.rst)."""
    entries = [
        *((name, 0o040755, b"") for name in folders),
        *((name, 0o100755, data) for name, data in files.items()),
        *((name, 0o120777, target.encode()) for name, target in links.items()),
        ("TRAILER!!!", 0, b""),
    ]
    for number, (name, mode, data) in enumerate(entries, start=1):
        # Owner root, no time: the same root always gives the same bytes.
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        yield head + b"\0" * (-len(head) % 4)
        yield data + b"\0" * (-len(data) % 4)


def raw_kernel(vmlinuz: Path, folder: Path) -> Path:
    """The ELF kernel inside an x86 bzImage, written to `folder`; a copy of `vmlinuz` where there is none to start.

    QEMU and Xen start the ELF kernel by its PVH entry; unpacking the kernel in an emulated machine takes two
    seconds of each boot. (What is lost is the random choice of the kernel's address.)
    """
    image = vmlinuz.read_bytes()
    kernel = folder / "vmlinux"
    if image[0x202:0x206] != b"HdrS":
        kernel.write_bytes(image)
        return kernel
    # Linux: Documentation/arch/x86/boot.rst
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    _unpack(image[start : start + length], kernel)
    # ELF note of type 18, XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry.
    note = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")
    data = kernel.read_bytes()
    if data[:4] != b"\x7fELF" or not note.search(data):
        kernel.write_bytes(image)
    return kernel


def _unpack(payload: bytes, target: Path) -> None:
    if payload.startswith(b"\x1f\x8b"):
        target.write_bytes(zlib.decompressobj(31).decompress(payload))
        return
    # All but gzip's are followed by their unpacked size, four bytes.
    packed = payload[:-4]
    if packed.startswith(b"\xfd7zXZ"):
        target.write_bytes(lzma.decompress(packed))
        return
    source = target.with_suffix(".packed")
    tools: tuple[tuple[bytes, list[str | Path]], ...] = (
        (b"\x02\x21\x4c\x18", ["lz4", "-dqf", source, target]),
        (b"\x28\xb5\x2f\xfd", ["zstd", "-dqf", source, "-o", target]),
    )
    for magic, argv in tools:
        if packed.startswith(magic):
            source.write_bytes(packed)
            run(argv)
            source.unlink()
            return
    target.write_bytes(payload)
