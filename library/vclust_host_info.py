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
  - Looks at packages, Xen, GRUB, libvirt and certificates of the machine it runs on, in one go.
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

import glob
import os
import shutil
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
    return {
        "missing": missing(packages, status),
        "systemd": systemd,
        "xen": xen,
        "xen_options": xen_options(output("xl", "info")) if xen else [],
        "xen_console": any(word in ("--log=guest", "--log=all") for word in console),
        "apparmor": confined(read(APPARMOR)),
        "grub": grub(),
        "libvirt": libvirt(systemd),
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
