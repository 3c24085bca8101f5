#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The packages of a running cluster as a request: an adapter to `vclust_py.life.capture`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_capture
author: vclust contributors
version_added: "0.1"
short_description: Read what packages a running virtual cluster has, as a request
description:
  - Asks the first node that is ready what is installed there beyond the cluster's lock.
  - Packages that others need are left out, as they come by themselves. Changes nothing.
extends_documentation_fragment:
  - vclust
  - vclust.name
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
"""

EXAMPLES = """
- name: Read what a cluster has become
  vclust_capture:
    site: "{{ vclust_site }}"
    name: hello-mpi
  register: captured
"""

RETURN = """
request:
  description: The cluster's request with the packages that it has now; password hashes are left out.
  type: dict
  returned: success
node:
  description: The node that was asked.
  type: str
  returned: success
added:
  description: Packages that the cluster's request does not name.
  type: list
  elements: str
  returned: success
removed:
  description: Packages that the cluster's request names, and the node does not have any more.
  type: list
  elements: str
  returned: success
without_hash:
  description: Users whose password hashes are left out.
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

from vclust_py.life import capture
from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return cluster_options()


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(capture.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
