#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Another request for a cluster that is made: an adapter to `vclust_py.life.apply`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_apply
author: vclust contributors
version_added: "0.1"
short_description: Give a virtual cluster another request
description:
  - Writes the request down as the next generation of what the cluster should be.
  - Gives new nodes their places, and takes nodes away that are too many.
  - The phases C(image), C(distribute), C(create), C(install) and C(ready) make new nodes.
  - C(vclust_teach) tells the others.
  - Nodes more or fewer, packages, users and their keys, lease and healing can change; with O(restart) also CPUs, memory
    and the size of disks, which C(vclust_restart) then gives the nodes. For other differences it fails, and changes
    nothing.
extends_documentation_fragment:
  - vclust
  - vclust.request
  - vclust.hosts
options:
  remove:
    description: Names of the nodes that go where there are to be fewer; default those with the highest numbers.
    type: list
    elements: str
    default: []
  restart:
    description: Whether nodes may be restarted, one after the other, for other CPUs, memory and disks.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Make the cluster as its request says now
  vclust_apply:
    site: "{{ vclust_site }}"
    request: "{{ vclust_asked }}"
    hosts: "{{ vclust_hosts }}"

- name: See what would change
  vclust_apply:
    request: "{{ vclust_asked }}"
    hosts: "{{ vclust_hosts }}"
  check_mode: true
  diff: true
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
  description: Names of the nodes that are to be restarted for other CPUs, memory or disks.
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
from vclust_py.module import Outcome, host_options, request_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    remove = {"type": "list", "elements": "str", "default": []}
    restart = {"type": "bool", "default": False}
    return {**request_options(), **host_options(), "remove": remove, "restart": restart}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    phase = apply.to_request(params["remove"], restarts=params["restart"])
    return run_phase(phase, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
