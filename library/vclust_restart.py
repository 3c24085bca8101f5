#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nodes restarted for other CPUs, memory or disks: an adapter to `vclust_py.life.restart`."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_restart
author: vclust contributors
version_added: "0.1"
short_description: Restart nodes of a virtual cluster that are to have other CPUs, memory or disks
description:
  - Shuts down each node that runs with other CPUs, memory or disk than its cluster's request says, defines it anew and
    starts it; the next one when it is ready again.
  - Has what runs there leave it first, as meta packages say (C(leave), C(resume)).
  - Which nodes these are their hosts say, so that it can be given again after an interruption.
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
- name: Restart the nodes that need it
  vclust_restart:
    site: "{{ vclust_site }}"
    name: hello-mpi

- name: See which these are
  vclust_restart:
    name: hello-mpi
  check_mode: true
"""

RETURN = """
restarted:
  description: Nodes that were restarted, or in check mode would be.
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

from vclust_py.life import restart
from vclust_py.module import Outcome, cluster_options, run_module, run_phase
from vclust_py.site.session import Session


def argument_spec() -> dict[str, Any]:
    return cluster_options()


def work(session: Session, params: dict[str, Any], check: bool) -> Outcome:
    return run_phase(restart.run, session, params, check)


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    run_module(module, work)


if __name__ == "__main__":
    main()
