#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `ready`: an adapter to `vclust_py.phases.ready`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_ready
author: vclust contributors
version_added: "0.1"
short_description: Prove that a virtual cluster works
description:
  - Waits until every node of a cluster has checked itself against the lock of the cluster.
  - Then logs in to the first node and from it to the others, as the first user of the request.
  - Where there is an MPI, runs an MPI program on all nodes.
extends_documentation_fragment:
  - vclust
  - vclust.name
options:
  again:
    description: Log in once more, and run everything, where the cluster is ready already.  In check mode it does not.
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
- name: Prove that the cluster works
  vclust_ready:
    site: "{{ vclust_site }}"
    name: hello-mpi

- name: See whether a ready cluster still works
  vclust_ready:
    site: "{{ vclust_site }}"
    name: hello-mpi
    again: true

- name: The same, with the site's state elsewhere
  vclust_ready:
    site:
      root: /srv/vclust
    name: hello-mpi
"""

RETURN = """
lost:
  description: Nodes that failed, where C(min_nodes) of the request allows it.
  type: list
  elements: str
  returned: success
cluster:
  description:
    - What the user of the cluster wants to know, without secrets. C(name), C(state), C(addresses) by node, C(seconds)
      by phase, C(cache) (digest of the VD cache it started from, empty for none).
    - C(login) is the command on the site manager that logs in, as C(user).
  type: dict
  returned: success
report:
  description: >-
    File on the site manager with a page of what the cluster did, for root only; empty where there is none.
    C(vclust report) makes it anew.
  type: str
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 4
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.phases import ready
from vclust_py.site.describe import summary
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**cluster_options(), "again": {"type": "bool", "default": False}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    outcome = run_phase(ready.run, session, params, check)
    return {**outcome, "cluster": summary(session.store, params["name"])}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
