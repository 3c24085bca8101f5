#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lease of a virtual cluster: an adapter to `vclust_py.life.lease`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_lease
author: vclust contributors
version_added: "0.1"
short_description: Prolong the lease of a virtual cluster
description:
  - Lets the lease of a cluster end so long from now. A lease that ends later is left as it is.
  - A cluster that is stopped because its lease has ended keeps its disks for that time too; it stays stopped.
  - Refused for a cluster without a lease, and for more than a quota of its owner allows.
extends_documentation_fragment:
  - vclust
  - vclust.name
options:
  duration:
    description: How long from now, such as C(4h) or C(2d).
    type: str
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Four hours more
  vclust_lease:
    site: "{{ vclust_site }}"
    name: hello-mpi
    duration: 4h

- name: May it have another week
  vclust_lease:
    name: hello-mpi
    duration: 7d
  check_mode: true
"""

RETURN = """
ends:
  description: Unix time at which the lease ends.
  type: float
  returned: success
state:
  description: The state of the cluster.
  type: str
  returned: success
  sample: ready
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.arguments import checked
from vclust_py.life import lease
from vclust_py.module import Outcome, changed, cluster_options, run_module
from vclust_py.phases import Inputs
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {**cluster_options(), "duration": {"type": "str", "required": True}}


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    seconds = checked("duration", "duration", params["duration"])
    result = lease.renew(session, Inputs(params["name"], check=check), seconds)
    return {**changed(result.change), **result.facts}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
