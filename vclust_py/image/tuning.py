"""What a node's root has otherwise than Debian's packages leave it.  `docs/boot.md` gives the seconds.

Everything here is administration that a Debian user knows: drop-ins, disabled or masked units, files in /etc.
"""

import os
from pathlib import Path

from vclust_py.image.files import open_folder

_UNITS = "etc/systemd/system"

FILES = {
    f"{_UNITS}/systemd-udev-trigger.service.d/vclust.conf": """\
# At boot only what a node has and needs is announced once more: disks, network, virtio devices, the console.
# Hot-plug is untouched; `udevadm trigger` by hand announces everything, as the unmodified unit does.
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=virtio
ExecStart=-udevadm trigger --action=add --subsystem-match=tty \
--sysname-match=ttyS0 --sysname-match=ttyAMA0 --sysname-match=hvc0
""",
    f"{_UNITS}/systemd-journal-flush.service.d/vclust.conf": """\
# The journal is in memory; `mkdir /var/log/journal` and a restart keep it on disk (journald.conf(5), Storage=auto).
[Unit]
ConditionPathExists=/var/log/journal
""",
    f"{_UNITS}/ssh.service.d/vclust.conf": """\
# sshd checks its configuration itself when it starts; doing it twice takes a fifth of a second when emulated.
[Service]
ExecStartPre=
""",
    "etc/acpi/events/powerbtn": """\
# The host's orderly way to switch a node off.  acpid does it with less than logind takes, which `systemctl poweroff`
# would start for it.
event=button/power.*
action=/usr/bin/systemctl start --no-block --job-mode=replace-irreversibly poweroff.target
""",
    "etc/initramfs-tools/update-initramfs.conf": """\
# The host hands kernel and initramfs to this node; one made here would not be used.
update_initramfs=no
backup_initramfs=no
""",
    "etc/fstab": "# The root file system is mounted by vclust's installer, before systemd starts.\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    # Empty: not known yet.  The node's own comes with its seed.
    "etc/machine-id": "",
}

MASKED = (
    # Nothing to repartition: the installer grows the root.  Also saves loading dm_mod and loop.
    "systemd-repart.service",
    # For tracing by root, who can mount them.
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    # Runlevels are kept for programs of System V's time.
    "systemd-update-utmp-runlevel.service",
    # The message bus starts when somebody calls (`systemctl` of a user does), not with every boot.
    "multi-user.target.wants/dbus.service",
    # So does logind, which keeps account of screens and of sessions that nobody tells it of without libpam-systemd.
    "multi-user.target.wants/systemd-logind.service",
    # tty2 to tty6 of a screen that no node has.
    "getty-static.service",
)

EXECUTOR = "usr/lib/systemd/systemd-executor"
"""systemd 254 and later (Debian 13) starts every process through this program, which costs an emulated node as much
again as the process: there what does nothing in a node is masked, too."""

MASKED_WITH_EXECUTOR = (
    # The same program does the same for all of /dev a moment later.
    "systemd-tmpfiles-setup-dev-early.service",
    # Settings of udev from the firmware or the hypervisor: a node is given none.
    "systemd-udev-load-credentials.service",
    # Kernel objects by mkdir, and the list of FUSE mounts: root can load and mount them. Each takes a modprobe more.
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
)

FILES_WITH_EXECUTOR = {
    f"{_UNITS}/systemd-udev-trigger.service.d/vclust.conf": """\
# At boot only what a node has and needs is announced once more: disks, network, virtio devices and their ports (this
# kernel has their driver built in), the console.
# Hot-plug is untouched; `udevadm trigger` by hand announces everything, as the unmodified unit does.
# One shell in place of two times `udevadm`, which writes to the same files.
[Service]
ExecStart=
ExecStart=-/bin/sh -c 'for file in /sys/class/block/*/uevent /sys/class/net/*/uevent /sys/bus/virtio/devices/*/uevent \
/sys/class/virtio-ports/*/uevent /sys/class/tty/ttyS0/uevent /sys/class/tty/ttyAMA0/uevent \
/sys/class/tty/hvc0/uevent; do [ ! -e "$$file" ] || echo add >"$$file"; done'
""",
}

GENERATORS_MASKED_WITH_EXECUTOR = (
    # Ways in by vsock and by a socket of the node's own, beside the cluster's.
    "systemd-ssh-generator",
    # No TPM, no partitions to be found, nothing to resume from.
    "systemd-tpm2-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    # What the kernel's command line may ask for, which is the host's and does not; updates by way of a restart.
    "systemd-debug-generator",
    "systemd-run-generator",
    "systemd-system-update-generator",
)

REMOVED = (
    # Disabled, as by `systemctl disable`: no screen, no EFI crash store, no LVM snapshots to scrub.
    f"{_UNITS}/getty.target.wants/getty@tty1.service",
    f"{_UNITS}/sysinit.target.wants/systemd-pstore.service",
    f"{_UNITS}/multi-user.target.wants/e2scrub_reap.service",
    f"{_UNITS}/timers.target.wants/e2scrub_all.timer",
    # The kernel's name and version, by five processes at every login.
    "etc/update-motd.d",
    # Identity: every node gets its own.
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    # mmdebstrap's own settings, the package index, what only this build made.
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/*",
    "var/lib/apt/lists/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/ldconfig/aux-cache",
    "var/log/*.log",
    "var/log/apt/*",
    "boot/initrd.img*",
    "initrd.img*",
    "vmlinuz*",
    "var/log/journal",
)


def tune(root: Path, sources: str) -> None:
    """Turn the freshly made `root` into a base: no identity, quick to boot, `sources` (deb822) for its apt."""
    for pattern in REMOVED:
        for path in sorted(root.glob(pattern), reverse=True):
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            else:
                path.unlink()
    has_executor = (root / EXECUTOR).exists()
    files = {**FILES, **(FILES_WITH_EXECUTOR if has_executor else {})}
    for name, text in {**files, "etc/apt/sources.list.d/vclust.sources": sources}.items():
        path = root / name
        open_folder(path.parent)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
    masked = [f"{_UNITS}/{unit}" for unit in MASKED]
    if has_executor:
        masked += [f"{_UNITS}/{unit}" for unit in MASKED_WITH_EXECUTOR]
        masked += [f"etc/systemd/system-generators/{name}" for name in GENERATORS_MASKED_WITH_EXECUTOR]
    for name in masked:
        path = root / name
        open_folder(path.parent)
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    # As new as /usr: systemd need not go through users and files to be made once more (ConditionNeedsUpdate).
    made = (root / "usr").stat().st_mtime_ns
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()
        (root / name).chmod(0o644)
        os.utime(root / name, ns=(made, made))


def _remove_folder(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _remove_folder(entry)
        else:
            entry.unlink()
    path.rmdir()
