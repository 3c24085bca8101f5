#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The phase `request`: an adapter to `vclust_py.phases.request`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_request
author: vclust contributors
version_added: "0.1"
short_description: Register a virtual cluster with its site
description:
  - Checks a request and writes it into the state of the site under its name.
  - A name that is there with the same request is left as it is; with another request it is refused.
extends_documentation_fragment:
  - vclust
  - vclust.request
options:
  reason:
    description: Why the cluster is at this site, as returned by M(vclust_choose); empty where there was no choice.
    type: str
    default: ""
  local:
    description:
      - Whether the site manager is one of the hosts (C(qemu:///system)).
      - Its libvirt is started then, if it does not run, while the next phases are at work.
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
- name: Register a cluster from a file
  vclust_request:
    site: "{{ vclust_site }}"
    request: "{{ lookup('vclust_request', 'examples/hello-mpi.ini') }}"

- name: Register a cluster of two small nodes
  vclust_request:
    request:
      hardware:
        number_of_nodes: 2
        ram: 512MB
      software:
        name: pair
        packages: [gcc, mpich]
"""

RETURN = """
name:
  description: Name of the cluster.
  type: str
  returned: success
  sample: hello-mpi
site_manager:
  description:
    - Where the state is (C(root)), and on which running machine (C(boot_id), C(mounts)).
    - With the C(settings) of the site, and its name (C(site)) as the inventory has it.
  type: dict
  returned: success
exit_code:
  description: On failure, the exit status that the C(vclust) command ends with.
  type: int
  returned: failure
  sample: 2
problems:
  description: On a mistaken request, every mistake.
  type: list
  elements: str
  returned: failure
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from vclust_py.module import Outcome, request_options, run_module, run_phase, site_manager
from vclust_py.phases import request
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return {
        **request_options(),
        "reason": {"type": "str", "default": ""},
        "local": {"type": "bool", "default": False},
    }


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return {**run_phase(request.run, session, params, check), **site_manager(session.site)}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
