"""The inventory of hosts, for `ansible-playbook -i` and `vclust -i`.

Inventories of several kinds given together are one site: they have the same groups, and what differs from host to host
is the host's.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from shared.places import KEY, ROOT

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
            ansible_ssh_private_key_file: %s
            # A login takes seconds when emulated, more when the host is busy.
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
  base_renewal: 0
"""

_PLUGIN = """\
---
# Running nodes, by cluster: groups cluster_<name>. Reads the state of the site on this machine.
plugin: vclust
site:
  root: %s
"""


class Host(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def known_hosts(self) -> Path:
        """A file with the host's ssh key."""

    def public_key(self) -> str:
        """That key, as in known_hosts."""

    def variables(self) -> Mapping[str, str]:
        """What else the inventory says of it."""


def folder(kind: str) -> Path:
    return ROOT / f"inventory-{kind}"


def write(hosts: Iterable[Host], site_root: Path, target: Path) -> None:
    """The inventory of `hosts`, which may be of several kinds, in folder `target`."""
    (target / "group_vars").mkdir(parents=True, exist_ok=True)
    text = _HOSTS % json.dumps(str(KEY))
    for host in hosts:
        options = {
            "UserKnownHostsFile": host.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
        }
        variables = {
            "ansible_host": host.address,
            "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
            **host.variables(),
        }
        text += f"            {host.name}:\n"
        text += "".join(f"              {name}: {json.dumps(value)}\n" for name, value in variables.items())
    _replace(target / "hosts.yml", text)
    _replace(target / "group_vars/site_testbed.yml", _VARIABLES % json.dumps(str(site_root)))
    _replace(target / "vclust.yml", _PLUGIN % json.dumps(str(site_root)))


def write_known_hosts(hosts: Iterable[Host], target: Path) -> None:
    _replace(target, "".join(f"{host.address} {host.public_key()}\n" for host in hosts))


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
