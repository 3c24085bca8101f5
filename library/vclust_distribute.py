#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `distribute`: an adapter to `vclust_py.phases.distribute`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_distribute
author: vclust contributors
version_added: "0.1"
short_description: Send a virtual cluster's images to its hosts
description:
  - Sends the images of a placed cluster, and what they stand on, to those of its hosts that are other machines
    and lack them, along the chain (docs/chain.md).
  - Every file is verified by its digest, and there under its name only whole.
  - Hosts that could not send to each other, though each has its images in the end, are named in a warning.
  - What these hosts were sent once and the site has no more is removed from them before, unless a live cluster of the
    site stands on it. One that cannot be removed is left, and named in the difference.
extends_documentation_fragment:
  - vclust
  - vclust.hosts
  - vclust.name
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Send the images to the hosts
  vclust_distribute:
    site: "{{ vclust_site }}"
    name: hello-mpi
    hosts: "{{ inventory_hostname | vclust_site_hosts(groups, hostvars) }}"

- name: The same, with the site's state elsewhere
  vclust_distribute:
    site:
      root: /srv/vclust
    name: hello-mpi
    hosts:
      - name: xen1
        uri: xen+tls://192.0.2.11/system
        rack: a
"""

RETURN = """
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, cluster_options, host_options, run_module, run_phase
from vclust_py.phases import distribute
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**cluster_options(), **host_options()}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(distribute.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
