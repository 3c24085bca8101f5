# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inventory of running nodes: an adapter to `vclust_py.site.describe`."""

from __future__ import annotations

DOCUMENTATION = """
name: vclust
author: vclust contributors
version_added: "0.1"
short_description: Nodes of virtual clusters
description:
  - Reads the state of the site on this machine and yields the nodes that are ready, as C(NODE.CLUSTER).
  - The nodes of cluster C(hello-mpi) are in group C(cluster_hello_mpi).
  - The variable C(vclust_python) of a node says whether C(/usr/bin/python3) came with it; where it did not, a warning
    says that most modules do not work there.
  - Where there is no state there are no nodes; where the user may not read it there are none either, with a warning.
  - The configuration file is called C(vclust.yml), or ends in C(.vclust.yml).
options:
  plugin:
    description: Says that the file is for this plugin.
    choices: [vclust]
    required: true
  site:
    description: Settings of the site, as in the inventory variable C(vclust_site).
    type: dict
    default: {}
  site_name:
    description:
      - Name of the site, for an inventory with several sites on this machine, a file for each.
      - The nodes are C(NODE.CLUSTER.SITE) then, in the groups C(cluster_SITE_CLUSTER).
    type: str
    default: ""
"""

EXAMPLES = """
# inventories/local/vclust.yml
plugin: vclust

# A site whose state is elsewhere:
# plugin: vclust
# site:
#   root: /srv/vclust

# One of two sites, inventories/two/north.vclust.yml:
# plugin: vclust
# site_name: north
# site:
#   root: /srv/north
"""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

from vclust_py.access import full_name, ssh_options
from vclust_py.errors import VclustError
from vclust_py.lock import PYTHON, Lock
from vclust_py.site import Site
from vclust_py.site.describe import describe
from vclust_py.site.store import Store


def connection(name: str, cluster: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Host variables with which Ansible logs in to a node, whose name in the inventory is `name`, as root."""
    return {
        # Not the address: clusters may overlap, and Ansible keeps its connections by this name.
        "ansible_host": name,
        "ansible_user": "root",
        # Debian's own: the same on every node, nothing to discover.
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": cluster["ssh"]["admin_key"],
        "ansible_ssh_common_args": shlex.join(ssh_options(cluster, node)),
        "vclust_address": node["address"],
        "vclust_host": node["host"],
    }


def _group(cluster: str, site: str = "") -> str:
    return f"cluster_{f'{site}_' if site else ''}{cluster}".replace("-", "_")


class InventoryModule(BaseInventoryPlugin):
    """What Ansible asks an inventory plugin for."""

    NAME = "vclust"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("/vclust.yml", ".vclust.yml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            site = Site.from_mapping(self.get_option("site"))
            clusters = self._clusters(site)
        except VclustError as error:
            raise AnsibleParserError(f"{path}: {error}") from error
        for cluster in (one for one in clusters if one["ssh"]):  # others are not for this user
            self._add(cluster, str(self.get_option("site_name")), python=self._has_python(site, cluster))

    def _has_python(self, site: Site, cluster: Mapping[str, Any]) -> bool:
        """Where the nodes have none a module would fail there with words about interpreters."""
        try:
            found = not cluster["lock"] or PYTHON in Lock.load(site, cluster["lock"]).installed()
        except VclustError:  # the lock is gone: nothing is known
            return True
        if not found and any(node["state"] == "ready" for node in cluster["nodes"]):
            self.display.warning(
                f"vclust: {cluster['name']}: no python3 in its nodes: of Ansible's modules only raw works there; a"
                " request with MetaPackages: ansible, or Packages: python3, has it"
            )
        return found

    def _clusters(self, site: Site) -> list[dict[str, Any]]:
        """What the site's state says; without it there are none."""
        try:
            site.database.stat()
            readable = os.access(site.database, os.R_OK)
        except FileNotFoundError:
            return []
        except PermissionError:
            readable = False
        if not readable:
            words = f"sudo {Path(sys.executable).with_name('ansible')} cluster_NAME -m ping"
            self.display.warning(
                f"vclust: no clusters here: the state in {site.root} is for root only; as in: {words}"
            )
            return []
        store = Store(site)
        try:
            return describe(store)
        finally:
            store.close()

    def _add(self, cluster: Mapping[str, Any], site: str, *, python: bool) -> None:
        group = self.inventory.add_group(_group(cluster["name"], site))
        for node in cluster["nodes"]:
            if node["state"] == "ready":
                name = full_name(cluster["name"], node["name"], site)
                self.inventory.add_host(name, group=group)
                self.inventory.set_variable(name, "vclust_python", python)
                for variable, value in connection(name, cluster, node).items():
                    self.inventory.set_variable(name, variable, value)
