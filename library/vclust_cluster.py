#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of a virtual cluster as a whole: an adapter to `phases.destroy` and `life.stop` of `vclust_py`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_cluster
author: vclust contributors
version_added: "0.1"
short_description: Remove or stop a virtual cluster
description:
  - C(absent) removes the nodes of a cluster, their disks, its network and its entry in the state of the site.
  - It does so in whatever phase the cluster is. A cluster that is not there is no error.
  - C(stopped) shuts the nodes down. Their places, disks and keys stay.
  - The phases C(create), C(install) and C(ready) start a stopped cluster again.
extends_documentation_fragment:
  - vclust
  - vclust.name
options:
  state:
    description: The state to reach.
    type: str
    choices: [absent, stopped]
    required: true
  forget_hosts:
    description:
      - Hosts that a removal does without where they do not answer.
      - What may still be there is warned of, and removed when the host answers again.
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
- name: Remove a cluster
  vclust_cluster:
    site: "{{ vclust_site }}"
    name: hello-mpi
    state: absent

- name: Remove a cluster of which a host will never come back
  vclust_cluster:
    name: hello-mpi
    state: absent
    forget_hosts: [xen2]

- name: Stop a cluster
  vclust_cluster:
    name: hello-mpi
    state: stopped

- name: See what would be removed
  vclust_cluster:
    name: hello-mpi
    state: absent
  check_mode: true
  diff: true
"""

RETURN = """
written_off:
  description: Those of O(forget_hosts) that did not answer.
  type: list
  elements: str
  returned: success, where the cluster is removed
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.life import stop
from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.phases import destroy
from vclust_py.site.session import Session

_STATES = {"absent": destroy.run, "stopped": stop.run}


def argument_spec() -> dict[str, Any]:
    state = {"type": "str", "choices": list(_STATES), "required": True}
    forget_hosts = {"type": "list", "elements": "str", "default": []}
    return {**cluster_options(), "state": state, "forget_hosts": forget_hosts}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(_STATES[params["state"]], session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
