#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `create`: an adapter to `vclust_py.phases.create`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_create
author: vclust contributors
version_added: "0.1"
short_description: Start the nodes of a virtual cluster
description:
  - Makes the network, the disks and the domains of a placed cluster and starts them.
  - Takes up what an interrupted run has left.
extends_documentation_fragment:
  - vclust
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
- name: Start the nodes
  vclust_create:
    site: "{{ vclust_site }}"
    name: hello-mpi

- name: The same, with the site's state elsewhere
  vclust_create:
    site:
      root: /srv/vclust
    name: hello-mpi
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

from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.phases import create
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return cluster_options()


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(create.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
