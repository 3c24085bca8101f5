#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the roll-out asks of a machine, in one round trip.  Runs there: nothing but Ansible and Python 3.8."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_host_info
author: vclust contributors
version_added: "0.1"
short_description: What the roll-out must know of a machine
description:
  - Looks at packages, KVM, Xen, GRUB, libvirt and certificates of the machine it runs on, in one go.
  - For KVM it runs a guest of two instructions, as the user that libvirt's QEMU runs as.
  - Changes nothing.
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
  platform:
    description: Runs on hosts and on the site manager.
    platforms: debian
    support: full
options:
  packages:
    description: Debian packages that the machine should have.
    type: list
    elements: str
    default: []
"""

EXAMPLES = """
- name: Look at the machine
  vclust_host_info:
    packages: [openssl, nftables]
  register: host

- name: See whether it runs Xen
  vclust_host_info:
  register: host
  failed_when: not host.xen
"""

RETURN = """
missing:
  description: Those of O(packages) that are not installed.
  type: list
  elements: str
  returned: always
systemd:
  description: Whether systemd runs the machine.
  type: bool
  returned: always
kvm:
  description: C(works), or why KVM does not.
  type: str
  returned: always
kvm_module:
  description: Kernel module with which KVM might work, when it is there and not loaded; else empty.
  type: str
  returned: always
xen:
  description: Whether the machine is a Xen host (dom0) now.
  type: bool
  returned: always
xen_options:
  description: Options that the running Xen was started with.
  type: list
  elements: str
  returned: always
xen_console:
  description: Whether Xen's console daemon keeps what guests say.
  type: bool
  returned: always
apparmor:
  description: Whether AppArmor confines libvirt.
  type: bool
  returned: always
grub:
  description: C(none); C(stale) when its menu is older than vclust's settings, or is not there; C(current).
  type: str
  returned: always
libvirt:
  description: C(absent); C(deaf), not listening for TLS; C(stale), its settings have changed since its start;
    C(current).
  type: str
  returned: always
virtlogd:
  description: Whether libvirt's log daemon runs. Under systemd it need not, its socket starts it.
  type: bool
  returned: always
csr:
  description: Signing request for the key that libvirt has, PEM; empty where there is no key.
  type: str
  returned: always
certificate:
  description: Certificate that libvirt has, PEM; empty where there is none.
  type: str
  returned: always
hop_csr:
  description: Signing request for the key of the chain's hop, PEM; empty where there is no key.
  type: str
  returned: always
hop_certificate:
  description: Certificate of the chain's hop, PEM; empty where there is none.
  type: str
  returned: always
authority:
  description: Subject of the certificate authority that libvirt trusts; empty where there is none.
  type: str
  returned: always
"""

import ctypes
import fcntl
import glob
import mmap
import os
import pwd
import shutil
import signal
import struct
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule

CA = "/etc/pki/CA/cacert.pem"
CERTIFICATE = "/etc/pki/libvirt/servercert.pem"
KEY = "/etc/pki/libvirt/private/serverkey.pem"
HOP_CERTIFICATE = "/etc/vclust/hop-cert.pem"
HOP_KEY = "/etc/vclust/hop-key.pem"
# All that libvirtd reads at its start only.
LIBVIRT_SETTINGS = (CA, CERTIFICATE, KEY, "/etc/libvirt/libvirtd.conf")
GRUB_SETTINGS = "/etc/default/grub.d/vclust.cfg"
GRUB_MENU = "/boot/grub/grub.cfg"
APPARMOR = "/sys/kernel/security/apparmor/profiles"
KVM = "/dev/kvm"
KVM_MODULES = {"vmx": "kvm_intel", "svm": "kvm_amd"}
QEMU_USER = "libvirt-qemu"
TLS_PORT = 16514
LISTEN = "0A"  # in /proc/net/tcp


def argument_spec() -> dict[str, Any]:
    return {"packages": {"type": "list", "elements": "str", "default": []}}


def output(*argv: str) -> str:
    """What a command prints; empty when it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def changed_at(pattern: str) -> float:
    """When the newest of these files was written; 0 when there is none."""
    return max((os.stat(path).st_mtime for path in glob.glob(pattern)), default=0.0)


def missing(packages: list[str], status: str) -> list[str]:
    """`status` is of `dpkg-query`, a line `STATUS PACKAGE` for each package."""
    installed = {line.split(" ")[1] for line in status.splitlines() if line.startswith("installed ")}
    return [package for package in packages if package not in installed]


def xen_options(info: str) -> list[str]:
    """The hypervisor's command line in the output of `xl info`."""
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "xen_commandline":
            return value.split()
    return []


def listening(table: str, port: int) -> bool:
    """Whether somebody listens on that port, by the text of /proc/net/tcp or tcp6."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return any(row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def process(pid_file: str, name: str) -> list[str]:
    """Arguments of the daemon of that name; empty when it does not run."""
    pid = read(pid_file).strip()
    words = read(f"/proc/{pid}/cmdline").split("\0") if pid.isdigit() else []
    return words if words and os.path.basename(words[0]) == name else []


def confined(profiles: str) -> bool:
    """Whether libvirt's daemon has one of these, lines such as `libvirtd (enforce)`."""
    return any(line.startswith(("libvirtd (", "/usr/sbin/libvirtd (")) for line in profiles.splitlines())


def kvm_module(cpuinfo: str) -> str:
    """The module for this processor; empty where it has nothing that KVM could use.  `cpuinfo` as in /proc."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return next((KVM_MODULES[flag] for flag in flags.split() if flag in KVM_MODULES), "")
    return ""


def kvm(module: str) -> str:
    """`works`, or why not; `module` is the one for this processor."""
    if os.path.exists(KVM):
        return kvm_as(QEMU_USER) or "works"
    if not module:
        return (
            "the processor offers neither VMX nor SVM: switched off in the machine's firmware, or not handed on by"
            " the hypervisor that it runs on"
        )
    if os.path.isdir(f"/sys/module/{module}"):
        return f"{module} is loaded, and there is no {KVM}"
    if not loadable(module):
        return f"there is no {KVM}, and the kernel has no module {module}"
    return f"{module} is not loaded; dmesg says why where it cannot be"


def loadable(module: str) -> bool:
    return output("modprobe", "--dry-run", "--show-depends", module) != ""


KVM_STEPS = 10_000_000
# Real KVM needs some milliseconds, in an emulated machine that is busy half a second. Where KVM itself is emulated
# badly it is slower than QEMU's emulation.
KVM_CPU_SECONDS = 2.0
KVM_SECONDS = 30
KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_RUN = 0xAE04, 0xAE01, 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION, KVM_SET_TSS_ADDR = 0x4020AE46, 0xAE47
KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
KVM_EXIT_HLT = 5
KVM_GUEST = b"\x66\x49\x75\xfc\xf4"  # l: dec ecx; jnz l; hlt


def kvm_as(user: str) -> str:
    """Why `user` cannot run a guest with KVM; empty when it can.  Where there is no such user yet, root stands in."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                account = pwd.getpwnam(user)
                os.initgroups(user, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            except KeyError:
                pass
            # By the time that the processor spends: a machine with other work is no reason.
            signal.setitimer(signal.ITIMER_PROF, KVM_CPU_SECONDS)
            signal.alarm(KVM_SECONDS)
            kvm_guest()
        except Exception as error:
            os.write(writer, f"{user}: {error}".encode()[:1000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as said:
        why = said.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return (
            f"a guest of {KVM_STEPS} steps did not end within {KVM_CPU_SECONDS:g} s of the processor's time or"
            f" {KVM_SECONDS} s in all, which emulation does"
        )
    return why


def kvm_guest() -> None:
    """Have a guest count down and halt (https://docs.kernel.org/virt/kvm/api.html).  Raises OSError."""
    device = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(device, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory.write(KVM_GUEST)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, len(memory), address))
    # Intel's processors before 2010, and some hypervisors below, need three pages of the guest for its real mode.
    fcntl.ioctl(machine, KVM_SET_TSS_ADDR, 16 * mmap.PAGESIZE)
    processor = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(processor, fcntl.ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0))
    segments = bytearray(312)
    fcntl.ioctl(processor, KVM_GET_SREGS, segments)
    struct.pack_into("<QIH", segments, 0, 0, 0xFFFF, 0)  # the code begins at 0
    fcntl.ioctl(processor, KVM_SET_SREGS, bytes(segments))
    registers = [0] * 18
    registers[2], registers[17] = KVM_STEPS, 2  # rcx, rflags
    fcntl.ioctl(processor, KVM_SET_REGS, struct.pack("<18Q", *registers))
    fcntl.ioctl(processor, KVM_RUN, 0)
    (reason,) = struct.unpack_from("<I", run, 8)
    if reason != KVM_EXIT_HLT:
        raise OSError(f"a guest ended with reason {reason}, expected {KVM_EXIT_HLT} (a halt)")


def grub() -> str:
    if not shutil.which("update-grub") or not os.path.isdir(os.path.dirname(GRUB_MENU)):
        return "none"
    return "stale" if changed_at(GRUB_MENU) <= changed_at(GRUB_SETTINGS) else "current"


def signing_request(key: str) -> str:
    """Empty where there is no key."""
    # The subject does not matter, the site's authority names the host itself.
    return output("openssl", "req", "-new", "-key", key, "-subj", "/CN=host") if os.path.exists(key) else ""


def libvirt(systemd: bool) -> str:
    pid_file = "/run/libvirtd.pid"
    tables = read("/proc/net/tcp"), read("/proc/net/tcp6")
    running = bool(process(pid_file, "libvirtd"))
    # Under systemd it need not run: its sockets start it, and then it reads everything anew.
    if not running and not systemd:
        return "absent"
    if not any(listening(table, TLS_PORT) for table in tables):
        return "deaf"
    newest = max(map(changed_at, LIBVIRT_SETTINGS))
    return "stale" if running and changed_at(pid_file) < newest else "current"


def look(packages: list[str]) -> dict[str, Any]:
    xen = "control_d" in read("/proc/xen/capabilities")
    systemd = os.path.isdir("/run/systemd/system")
    # A package that dpkg has never heard of makes it fail, with the others' lines printed.
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *packages]
    status = subprocess.run(query, capture_output=True, text=True, check=False).stdout if packages else ""
    console = process("/run/xenconsoled.pid", "xenconsoled")
    module = kvm_module(read("/proc/cpuinfo"))
    return {
        "missing": missing(packages, status),
        "systemd": systemd,
        "kvm": kvm(module),
        "kvm_module": "" if not module or os.path.exists(KVM) or not loadable(module) else module,
        "xen": xen,
        "xen_options": xen_options(output("xl", "info")) if xen else [],
        "xen_console": any(word in ("--log=guest", "--log=all") for word in console),
        "apparmor": confined(read(APPARMOR)),
        "grub": grub(),
        "libvirt": libvirt(systemd),
        "virtlogd": bool(process("/run/virtlogd.pid", "virtlogd")),
        "csr": signing_request(KEY),
        "certificate": read(CERTIFICATE),
        "hop_csr": signing_request(HOP_KEY),
        "hop_certificate": read(HOP_CERTIFICATE),
        "authority": output("openssl", "x509", "-noout", "-subject", "-in", CA).strip()
        if os.path.exists(CA)
        else "",
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    module.exit_json(changed=False, **look(module.params["packages"]))


if __name__ == "__main__":
    main()
