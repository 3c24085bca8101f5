#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nodes that have ended, started again: an adapter to `vclust_py.life.heal`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_heal
author: vclust contributors
version_added: "0.1"
short_description: Start nodes of a virtual cluster again that do not run
description:
  - Starts each node of a cluster that has ended on its disk, and waits until it reports that it is ready.
  - Makes the network of the cluster again where it is gone.
  - Nodes that run are not touched. Nodes on hosts that do not answer are warned of.
extends_documentation_fragment:
  - vclust
  - vclust.name
  - vclust.hosts
options:
  forget_hosts:
    description:
      - Hosts that are off for good, or for long. Whoever names one knows that it is off.
      - The nodes there are made anew on other hosts, with the same names and addresses, on new disks.
      - Refused for a host that answers. For administrators of the site only.
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
- name: Start again what has ended
  vclust_heal:
    site: "{{ vclust_site }}"
    name: hello-mpi
    hosts: "{{ vclust_hosts }}"

- name: Without a host whose power supply has burnt
  vclust_heal:
    name: hello-mpi
    hosts: "{{ vclust_hosts }}"
    forget_hosts: [kvm3]

- name: See what has ended
  vclust_heal:
    name: hello-mpi
    hosts: "{{ vclust_hosts }}"
  check_mode: true
  diff: true
"""

RETURN = """
started:
  description: Nodes that were started again and are ready.
  type: list
  elements: str
  returned: success
moved:
  description: Nodes that were on hosts to forget, by name the host of each now.
  type: dict
  returned: success
not_ready:
  description: Nodes that were started again and did not become ready.
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

from vclust_py.life import heal
from vclust_py.module import Outcome, cluster_options, host_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    forget_hosts = {"type": "list", "elements": "str", "default": []}
    return {**cluster_options(), **host_options(), "forget_hosts": forget_hosts}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(heal.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
