#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A cluster with more or fewer nodes: an adapter to `vclust_py.life.apply`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_resize
author: vclust contributors
version_added: "0.1"
short_description: Give a virtual cluster more or fewer nodes
description:
  - What C(vclust_apply) does with the request that the cluster has, for another number of nodes.
extends_documentation_fragment:
  - vclust
  - vclust.name
  - vclust.hosts
options:
  number:
    description: How many nodes the cluster is to have.
    type: int
    required: true
  remove:
    description: Names of the nodes that go where there are to be fewer; default those with the highest numbers.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Six nodes
  vclust_resize:
    site: "{{ vclust_site }}"
    name: hello-mpi
    number: 6
    hosts: "{{ vclust_hosts }}"

- name: Without two that are named
  vclust_resize:
    name: hello-mpi
    number: 4
    remove: [hello02, hello05]
    hosts: "{{ vclust_hosts }}"
"""

RETURN = """
add:
  description: New nodes, by name the host of each. In check mode, where they would run.
  type: dict
  returned: success
remove:
  description: Nodes that are gone, or in check mode would go.
  type: list
  elements: str
  returned: success
differences:
  description: What the cluster had otherwise, a sentence for each key of the request.
  type: list
  elements: str
  returned: success
packages:
  description: What nodes install, with versions (C(install)), and what goes (C(remove)); empty where nothing does.
  type: dict
  returned: success
restart:
  description: Always empty, as nodes keep what they have.
  type: list
  elements: str
  returned: success
prove:
  description: Whether a meta package is new that says how to see that it works, or nodes restart.
  type: bool
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 3
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.life import apply
from vclust_py.module import Outcome, cluster_options, host_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    number = {"type": "int", "required": True}
    remove = {"type": "list", "elements": "str", "default": []}
    return {**cluster_options(), **host_options(), "number": number, "remove": remove}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(apply.to_number(params["number"], params["remove"]), session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
