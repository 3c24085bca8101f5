"""The inventory of the hosts, for `ansible-playbook -i` and `vclust -i`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from emulated import kinds, places
from emulated.host import Host
from emulated.kinds import Kind

_HOSTS = """\
---
# Written by tests/testbed.
all:
  children:
    site_testbed:
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


def folder(kind: Kind) -> Path:
    return places.ROOT / f"inventory-{kind.name}"


def write(hosts: Sequence[Host], site_root: Path, target: Path) -> None:
    """The inventory of `hosts`, which may be of several kinds, in folder `target`."""
    (target / "group_vars").mkdir(parents=True, exist_ok=True)
    text = _HOSTS % {
        "key": json.dumps(str(places.KEY)),
        "known_hosts": places.KNOWN_HOSTS,
    }
    for host in hosts:
        variables = {"ansible_host": host.address, "vclust_libvirt_uri": host.uri}
        if host.kind.image.xen:
            variables["vm_host_dom0_memory"] = f"{kinds.DOM0_MEMORY}M"  # what it is started with
        text += f"            {host.name}:\n"
        text += "".join(f"              {name}: {value}\n" for name, value in variables.items())
    _replace(target / "hosts.yml", text)
    _replace(target / "group_vars/site_testbed.yml", _VARIABLES % json.dumps(str(site_root)))
    _replace(target / "vclust.yml", _PLUGIN % json.dumps(str(site_root)))


def write_known_hosts(hosts: Sequence[Host]) -> None:
    _replace(places.KNOWN_HOSTS, "".join(f"{host.address} {host.public_key()}\n" for host in hosts))


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
