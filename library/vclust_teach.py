#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Running nodes told of a change of their cluster: an adapter to `vclust_py.life.teach`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_teach
author: vclust contributors
version_added: "0.1"
short_description: Tell the nodes of a virtual cluster what has changed
description:
  - Brings names of other nodes, users and their keys to nodes that run and were told of an earlier generation of the
    cluster, without a restart.
  - Packages that a node lacks come with that. Services that run files which these replace are started again.
  - Warns of nodes that cannot be told now; they are told when the module is run again.
extends_documentation_fragment:
  - vclust
  - vclust.name
options:
  in_turn:
    description:
      - Tell each node only when the one before has what it was told, and its services run again.
      - A node that is not reached is left for later; after one that does not bear it, all others are.
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
- name: Tell the nodes
  vclust_teach:
    site: "{{ vclust_site }}"
    name: hello-mpi

- name: Tell them one after the other
  vclust_teach:
    name: hello-mpi
    in_turn: true

- name: See which have not been told
  vclust_teach:
    name: hello-mpi
  check_mode: true
"""

RETURN = """
told:
  description: Nodes that were told, or in check mode would be.
  type: list
  elements: str
  returned: success
late:
  description: Nodes that could not be told.
  type: list
  elements: str
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.life import teach
from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**cluster_options(), "in_turn": {"type": "bool", "default": False}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(teach.phase(in_turn=params["in_turn"]), session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
