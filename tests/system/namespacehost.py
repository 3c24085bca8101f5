"""A host as namespaces of this machine: its own root, processes, network and libvirtd; no systemd, no nodes.

Its root is an overlay over this machine's.  Ansible comes in by a program that stands in for ssh and enters the
namespaces; the site manager is in a network namespace beside it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from machine import BIN

MANAGER, HOST = "10.79.0.1", "10.79.0.2"
HIDDEN = (
    *("etc/vclust", "etc/pki", "var/lib/vclust", "etc/libvirt/storage"),
    "etc/libvirt/qemu/networks/autostart/default.xml",
)
"""What this machine may have and a host that was never rolled out has not."""

_INIT = """
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
cd {folder}/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
for path in run tmp; do mount -t tmpfs tmpfs $path; done
pivot_root . mnt
umount -l /mnt
hostname {name}
exec tini -s -- sh -c 'echo up; exec sleep infinity'
"""
_SSH = """#!{python}
import os, sys
enter = ["nsenter", "--target", "{pid}", "--mount", "--pid", "--net", "--uts", "--ipc", "--wd=/"]
clean = ["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
os.execvp("nsenter", [*enter, *clean, "sh", "-c", sys.argv[-1]])
"""
INVENTORY = """\
---
all:
  children:
    site_testbed:
      vars:
        vclust_site: {{root: {root}, base_renewal: 0}}
      children:
        site_managers:
          hosts:
            localhost:
              ansible_connection: local
              ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
        vm_hosts:
          hosts:
            {name}:
              ansible_host: {address}
              ansible_user: root
              ansible_ssh_executable: {folder}/ssh
              ansible_python_interpreter: /usr/bin/python3
              vclust_libvirt_uri: qemu+tls://{address}/system
              # Those that this machine has.
              vm_host_packages: []
              vm_host_kvm_packages: []
"""


class NamespaceHost:
    name, address = "n1", HOST

    def __init__(self, folder: Path, pid: int, manager: str) -> None:
        self.folder, self._pid, self._manager = folder, pid, manager
        path = folder / "ssh"
        path.write_text(_SSH.format(python=sys.executable, pid=pid), encoding="utf-8")
        path.chmod(0o755)

    def ssh(self, command: str) -> str:
        done = subprocess.run([self.folder / "ssh", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def vclust(self) -> tuple[str | Path, ...]:
        """The command, where the site manager is."""
        return ("ip", "netns", "exec", self._manager, BIN / "vclust")

    def inventory(self, root: Path, folder: Path) -> None:
        folder.mkdir()
        text = INVENTORY.format(root=root, name=self.name, address=self.address, folder=self.folder)
        (folder / "hosts.yml").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def namespace_host(folder: Path) -> Iterator[NamespaceHost]:
    """All processes, mounts and interfaces of it end with the block."""
    manager, name = (f"vt{os.getpid()}{end}" for end in "mh")
    for path in ("upper", "work", "root"):
        (folder / path).mkdir(parents=True)
    for path in HIDDEN:
        (folder / "upper" / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(folder / "upper" / path, 0o020000, os.makedev(0, 0))  # a whiteout, as overlayfs calls it
    with contextlib.ExitStack() as stack:
        for space in (manager, name):
            subprocess.run(["ip", "netns", "add", space], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "delete", space], check=True)
        batch = (
            f"link set lo up\nlink add eth0 type veth peer name eth0 netns {name}\n"
            f"address add {MANAGER}/24 dev eth0\nlink set eth0 up\n"
        )
        subprocess.run(["ip", "-netns", manager, "-batch", "-"], input=batch, text=True, check=True)
        batch = f"link set lo up\naddress add {HOST}/24 dev eth0\nlink set eth0 up\n"
        subprocess.run(["ip", "-netns", name, "-batch", "-"], input=batch, text=True, check=True)
        init = _INIT.format(folder=folder, name=NamespaceHost.name)
        argv = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-ec", init]
        holder = subprocess.Popen(["ip", "netns", "exec", name, *argv], stdout=subprocess.PIPE, text=True)
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text(encoding="ascii")
        yield NamespaceHost(folder, int(children.split()[0]), manager)
    deadline = time.monotonic() + 30
    while True:
        try:
            shutil.rmtree(folder)
            return
        except OSError:  # its mounts end a moment after its processes
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
