"""The hosts' initramfs: drivers of the disk and network, and a script that gives the root its identity.

Debian's own needs a quarter of a minute more when emulated.  The identity comes as a second archive behind the first
(the kernel unpacks one after the other), so that all hosts share one image and none needs DHCP or a seed disk.
"""

import shutil
from pathlib import Path

from vclust_py.image import installer
from vclust_py.run import run

_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "crc32c_generic", "ext4")

_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
# Without a name in the archive for it, the kernel starts this without a console.
exec >/dev/console 2>&1
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
[ -b /dev/vda ] || echo "initramfs: waiting for the disk /dev/vda"
until [ -b /dev/vda ]; do $b usleep 50000; done
$b mount -t ext4 -o noatime /dev/vda /root
# Once: what is changed there later stays.
[ -e /root/etc/machine-id ] || $b cp -a /identity/. /root/
for word in $($b cat /proc/cmdline); do
    case $word in underlay=*) $b ip addr add "${word#underlay=}" brd + dev eth0; $b ip link set eth0 up;; esac
done
$b ip link set lo up
$b mount --move /dev /root/dev
$b umount /sys /proc
exec $b switch_root /root /sbin/init
"""


def build(root: Path, version: str, folder: Path, target: Path) -> None:
    """Write the shared part for kernel `version` of the image's `root`; `folder` is for work."""
    tree = folder / "initramfs"
    for name in ("bin", "dev", "identity", "modules", "proc", "root", "sys"):
        (tree / name).mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", tree / "bin/busybox")
    modules = root / "usr/lib/modules" / version
    known = installer.module_dependencies((modules / "modules.dep").read_text(encoding="ascii"))
    order = installer.load_order(known, _MODULES)
    for path in order:
        shutil.copy(modules / path, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{Path(path).name}\n" for path in order), encoding="ascii")
    (tree / "init").write_text(_INIT, encoding="ascii")
    (tree / "init").chmod(0o755)
    target.write_bytes(_archive(tree, folder))


def with_identity(shared: Path, files: dict[str, tuple[int, str]], folder: Path, target: Path) -> None:
    """Write `shared` and behind it the host's own files: path below the root, mode, text."""
    tree = folder / "identity-tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name, (mode, text) in files.items():
        path = tree / "identity" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    # The folders exist in the root; these are their modes there.
    for path in tree.rglob("*"):
        if path.is_dir():
            path.chmod(0o700 if path.name in (".ssh", "root") else 0o755)
    target.write_bytes(shared.read_bytes() + _archive(tree, folder))
    shutil.rmtree(tree)


def _archive(tree: Path, folder: Path) -> bytes:
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    archive = folder / "archive"
    options = ["--create", "--format=newc", "--quiet", "--owner=0:0", "--reproducible", f"--file={archive}"]
    run(["cpio", *options], stdin="".join(f"{name}\n" for name in names), cwd=tree)
    data = archive.read_bytes()
    archive.unlink()
    return data + b"\0" * (-len(data) % 4)
