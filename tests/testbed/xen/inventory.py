"""The inventory of the hosts, for `ansible-playbook -i` and `vclust -i`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from xen import places
from xen.host import Host

_HOSTS = """\
---
# Written by tests/testbed/xen.
all:
  children:
    site_xen:
      children:
        site_managers:
          hosts:
            localhost:
              ansible_connection: local
              ansible_python_interpreter: "{{ ansible_playbook_python }}"
        vm_hosts:
          vars:
            ansible_user: root
            ansible_python_interpreter: /usr/bin/python3
            ansible_ssh_private_key_file: %(key)s
            # A login takes seconds when emulated, more when the host is busy.
            ansible_ssh_common_args: >-
              -o UserKnownHostsFile=%(known_hosts)s -o GlobalKnownHostsFile=/dev/null
              -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes
            ansible_ssh_timeout: 120
            # What the hosts are started with.
            vm_host_dom0_memory: %(dom0_memory)sM
            vclust_libvirt_uri: "xen+tls://{{ ansible_host }}/system"
          hosts:
"""

_VARIABLES = """\
---
# Settings of the site; all have defaults (docs/operations.md).
vclust_site:
  root: %s
  # What guards against real processors' foresight takes an emulated one three times as long.
  kernel_options: mitigations=off
  # Nodes start from the base or a layer, however many requests came before.
  cache_every: 0
"""

_PLUGIN = """\
---
# Running nodes, by cluster: groups cluster_<name>. Reads the state of the site on this machine.
plugin: vclust
site:
  root: %s
"""


def folder(plain: bool) -> Path:
    return places.ROOT / ("inventory-plain" if plain else "inventory")


def write(hosts: Sequence[Host], site_root: Path, target: Path) -> None:
    """The inventory of `hosts`, in folder `target`."""
    (target / "group_vars").mkdir(parents=True, exist_ok=True)
    text = _HOSTS % {
        "key": json.dumps(str(places.KEY)),
        "known_hosts": places.KNOWN_HOSTS,
        "dom0_memory": places.DOM0_MEMORY,
    }
    text += "".join(
        f"            {host.name}:\n              ansible_host: {host.address}\n" for host in hosts
    )
    _replace(target / "hosts.yml", text)
    _replace(target / "group_vars/site_xen.yml", _VARIABLES % json.dumps(str(site_root)))
    _replace(target / "vclust.yml", _PLUGIN % json.dumps(str(site_root)))


def write_known_hosts(hosts: Sequence[Host]) -> None:
    _replace(places.KNOWN_HOSTS, "".join(f"{host.address} {host.public_key()}\n" for host in hosts))


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
