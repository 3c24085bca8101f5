"""As much of a base image's root as kernel and installer are made from, and kernels to unpack."""

from pathlib import Path

VERSION = "6.1.0-1-cloud-amd64"
PVH_NOTE = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0"
MODULES = (
    "virtio",
    "virtio_ring",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "isofs",
    "cdrom",
    "vfat",
    "fat",
    "nls_cp437",
    "nls_ascii",
    "xen-blkfront",
)


def fill(root: Path) -> Path:
    modules = root / "usr/lib/modules" / VERSION
    (modules / "kernel").mkdir(parents=True)
    for name in MODULES:
        (modules / f"kernel/{name}.ko").write_bytes(f"module {name}".encode())
    (modules / "modules.dep").write_text(
        "kernel/virtio.ko: kernel/virtio_ring.ko\n"
        "kernel/virtio_ring.ko:\n"
        "kernel/virtio_pci.ko: kernel/virtio.ko kernel/virtio_ring.ko\n"
        "kernel/virtio_blk.ko: kernel/virtio.ko kernel/virtio_ring.ko\n"
        "kernel/virtio_net.ko: kernel/virtio.ko kernel/virtio_ring.ko\n"
        "kernel/isofs.ko: kernel/cdrom.ko\n"
        "kernel/cdrom.ko:\n"
        "kernel/vfat.ko: kernel/fat.ko\n"
        "kernel/fat.ko:\n"
        "kernel/nls_cp437.ko:\n"
        "kernel/nls_ascii.ko:\n"
        "kernel/xen-blkfront.ko:\n"
    )
    (root / "usr/bin").mkdir()
    (root / "usr/bin/busybox").write_bytes(b"busybox")
    return root


def bzimage(payload: bytes) -> bytes:
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    head[0x248:0x250] = (0).to_bytes(4, "little") + len(payload).to_bytes(4, "little")
    return bytes(head) + payload
