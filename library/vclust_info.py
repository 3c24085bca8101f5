#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a site knows of its clusters: an adapter to `vclust_py.site.describe`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_info
author: vclust contributors
version_added: "0.1"
short_description: Tell what virtual clusters a site has
description:
  - Reads the state of the site: clusters, nodes, placements, times and bytes of each phase, and the way in.
  - Asks hosts what runs there now, no longer than C(within) seconds, unless that was done just before.
extends_documentation_fragment:
  - vclust
options:
  name:
    description: One cluster, if the site has it; default all.
    type: str
  within:
    description: How many seconds hosts may take to say what runs there; C(0) to ask none.
    type: float
    default: 1
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Read all clusters
  vclust_info:
    site: "{{ vclust_site }}"
  register: info

- name: Read one
  vclust_info:
    name: hello-mpi
    within: 5
"""

RETURN = """
clusters:
  description:
    - The clusters, password hashes left out.
    - C(state) of a cluster and of its nodes is what they are now, or C(unknown), and C(seen) the time of that,
      or since when it is not known.
  type: list
  elements: dict
  returned: success
volumes:
  description: Volumes that the caller may have, C(cluster) being the one that has it.
  type: list
  elements: dict
  returned: success
homes:
  description: Homes that the site keeps and the caller may have, C(clusters) being those that have them.
  type: list
  elements: dict
  returned: success
site_manager:
  description:
    - Where the state is (C(root)), and on which running machine (C(boot_id), C(mounts)).
    - With the C(settings) of the site, and its name (C(site)) as the inventory has it.
  type: dict
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.life.look import look
from vclust_py.module import Outcome, run_module, site_manager, site_options
from vclust_py.site.describe import describe, describe_homes, describe_volumes
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**site_options(), "name": {"type": "str"}, "within": {"type": "float", "default": 1.0}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    sightings = look(session.store, params["name"], within=params["within"])
    found = describe(session.store, params["name"], sightings)
    kept = {"volumes": describe_volumes(session.store), "homes": describe_homes(session.store)}
    return {"changed": False, "clusters": found, **kept, **site_manager(session.site)}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
